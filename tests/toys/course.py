"""Trainings of a toy search repeated by the course of a trial, without Ray; run as a process of its own."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from raydistill import cluster
from raydistill.search.campaign import _plan
from raydistill.search.spaces import job_data
from raydistill.search.trial import FINISHED, Reporter, run_trial
from raydistill.tracking.tracker import MemoryTracker
from toys.search import make_search

PARALLEL = 2
"""Trials at one time, which share the cores."""


def live(folder: Path) -> dict[str, Any]:
    """Keys that leave a toy search nothing to make before its trials."""
    return {"distill.teacher_outputs": "live", "distill.student.checkpoint": str(folder / "teacher")}


class Saves(Reporter):
    """Keeps the state at a step and ends there, or hears the last metric."""

    copies = True

    def __init__(self, start: Path | None, stop: int | None, target: Path) -> None:
        self.start, self._stop, self._target = start, stop, target
        self.copied_from = None if start is None else -1
        self.metric = float("nan")

    def report(self, metrics: Any, save_state: Any = None) -> None:
        """Save and end at the step, else keep the metric of the student."""
        if metrics["step"] == self._stop:
            save_state(self._target)
            raise SystemExit
        if metrics.get(FINISHED):
            self.metric = metrics["metric"]


def repeat(folder: Path, course: list[dict[str, Any]]) -> dict[str, Any]:
    """One training after the other, each from the state that the one before it left; the student of the last."""
    search = make_search(folder, overrides=live(folder))
    campaign = folder / "repeated"
    (campaign / "trials").mkdir(parents=True)
    # With as many threads as the trials had: Adam makes steps of what rounding leaves where a gradient is zero.
    plan = replace(_plan(search, job_data(search), campaign, tracker=MemoryTracker()), parallel=PARALLEL)
    start: Path | None = None
    stops = [part["step"] for part in course[1:]]
    for number, (part, stop) in enumerate(zip(course, [*stops, None], strict=True)):
        target = campaign / f"state-{number}"
        target.mkdir()
        reporter = Saves(start, stop, target)
        try:
            run_trial(plan, number, part["values"], reporter)
        except SystemExit:
            assert stop is not None
        start = target
    return {"metric": reporter.metric, "student": str(reporter.folder / "student")}


if __name__ == "__main__":
    with patch.object(cluster, "capacity", lambda scaling: 1):
        sys.stdout.write("\n" + json.dumps(repeat(Path(sys.argv[1]), json.loads(sys.argv[2]))))
