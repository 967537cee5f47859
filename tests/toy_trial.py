"""Trials of a toy search made one after the other in this process, without Ray; run as a process of its own."""

import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from raydistill import cluster
from raydistill.search.campaign import _plan
from raydistill.search.spaces import job_data
from raydistill.search.trial import FINISHED, Reporter, TrialError, run_trial
from raydistill.tracking.tracker import MemoryTracker
from toy_search import make_search


class Kept(Reporter):
    """Keeps what is reported, and ends the trial at a step."""

    def __init__(self, *, stop: int | None = None) -> None:
        self.told: list[tuple[int, float, bool]] = []
        self._stop = stop

    def report(self, metrics: Any, save_state: Any = None) -> None:
        self.told.append((int(metrics["step"]), metrics["metric"], bool(metrics.get(FINISHED))))
        if metrics["step"] == self._stop:
            raise SystemExit


def main(folder: Path) -> dict[str, Any]:
    """One trial that finishes, the same again, one that fails and one that is stopped."""
    changes = {"distill.teacher_outputs": "live", "distill.student.checkpoint": str(folder / "teacher")}
    search = make_search(folder, overrides=changes)
    campaign, tracker = folder / "runs" / "toy-search", MemoryTracker()
    (campaign / "trials").mkdir(parents=True)
    plan = _plan(search, job_data(search), campaign, tracker=tracker)
    found: dict[str, Any] = {}
    trials = {"first": (0.02, None), "again": (0.02, None), "failed": (1e30, None), "stopped": (0.01, 4)}
    for number, (name, (rate, stop)) in enumerate(trials.items()):
        reporter, ended = Kept(stop=stop), ""
        try:
            run_trial(plan, number, {"method.temperature": 2.0, "optimizer.learning_rate": rate}, reporter)
        except (TrialError, SystemExit) as error:
            ended = f"{type(error).__name__}: {error}"
        found[name] = {"told": reporter.told, "ended": ended, "folder": str(reporter.folder)}
    found["status"] = [run.status for run in tracker.runs.values()]
    found["parents"] = sorted({str(run.parent) for run in tracker.runs.values()})
    return found


if __name__ == "__main__":
    with patch.object(cluster, "capacity", lambda scaling: 1):
        sys.stdout.write("\n" + json.dumps(main(Path(sys.argv[1]))))
