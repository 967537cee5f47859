"""Trials of a toy search made one after the other in this process, without Ray; run as a process of its own."""

import json
import shutil
import sys
from contextlib import nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from raydistill import cluster
from raydistill.search import spaces
from raydistill.search.campaign import trial_context
from raydistill.search.results import TrialEvent
from raydistill.search.trial import TrialContext, TrialError, run_trial
from raydistill.search.tuning import trainable as trainable_module
from toys.search import make_search
from toys.tracker import MemoryTracker


class Kept:
    """Keeps what is reported, and ends the trial at a step."""

    def __init__(self, *, stop: int | None = None) -> None:
        self.told: list[tuple[int, float, bool]] = []
        self.folder = Path()
        self._stop = stop

    def __call__(self, event: TrialEvent, save_state: Any) -> None:
        self.folder = event.folder
        self.told.append((event.step, event.metric, event.finished))
        if event.step == self._stop:
            raise SystemExit


class InPlaceOfTune:
    """What a trial asks of Ray Tune, for one trial of a population; ends it at a step and keeps its state."""

    def __init__(self, number: int, *, stop: int | None = None, state: Path | None = None, target: Path) -> None:
        self.told: list[dict[str, Any]] = []
        self.saved_at: list[int] = []
        self._number, self._stop, self._state, self._target = number, stop, state, target
        self.Checkpoint = SimpleNamespace(from_directory=Path)

    def get_context(self) -> Any:
        return SimpleNamespace(get_trial_name=lambda: f"trial-{self._number:03d}")

    def get_checkpoint(self) -> Any:
        return None if self._state is None else SimpleNamespace(as_directory=lambda: nullcontext(str(self._state)))

    def report(self, result: dict[str, Any], checkpoint: Path | None = None) -> None:
        event: TrialEvent = result["event"]
        self.told.append({**asdict(event), "folder": str(event.folder), "clock": result["clock"]})
        if checkpoint is not None:
            self.saved_at.append(event.step)
            shutil.copytree(checkpoint, self._target, dirs_exist_ok=True)
        if event.step == self._stop:
            raise SystemExit


def population(context: TrialContext, folder: Path) -> dict[str, Any]:
    """A trial that ends at step 4, and two that go on from its state: with its values, and with another rate."""
    state, found = folder / "state", {}
    runs: dict[str, tuple[int, float, int | None, Path | None]] = {
        "donor": (10, 0.02, 4, None),
        "same": (11, 0.02, None, state),
        "other": (12, 0.002, None, state),
    }
    for name, (number, rate, stop, start) in runs.items():
        target = state if start is None else folder / name
        tune = InPlaceOfTune(number, stop=stop, state=start, target=target)
        values = {"method.temperature": 2.0, "optimizer.learning_rate": rate}
        with patch.object(trainable_module, "tune", tune), suppress(SystemExit):
            trainable_module.trainable(replace(context, exchange_steps=4))({"number": 10, "values": values})
        found[name] = {"told": tune.told, "saved_at": tune.saved_at}
    return found


def main(folder: Path) -> dict[str, Any]:
    """One trial that finishes, the same again, one that fails and one that is stopped."""
    changes = {"distill.teacher_outputs": "live", "distill.student.checkpoint": str(folder / "teacher")}
    search = make_search(folder, overrides=changes)
    campaign, tracker = folder / "runs" / "toy-search", MemoryTracker()
    (campaign / "trials").mkdir(parents=True)
    context = replace(trial_context(search), tracker=tracker)
    found: dict[str, Any] = {}
    trials = {"first": (0.02, None), "again": (0.02, None), "failed": (1e30, None), "stopped": (0.01, 4)}
    with patch.object(spaces, "load_job", wraps=spaces.load_job) as load:
        for number, (name, (rate, stop)) in enumerate(trials.items()):
            reporter, ended = Kept(stop=stop), ""
            try:
                run_trial(context, number, {"method.temperature": 2.0, "optimizer.learning_rate": rate}, reporter)
            except (TrialError, SystemExit) as error:
                ended = f"{type(error).__name__}: {error}"
            found[name] = {"told": reporter.told, "ended": ended, "folder": str(reporter.folder)}
    found["loads"] = load.call_count
    found["population"] = population(context, folder)
    found["copied_from"] = {run.name: run.tags.get("copied_from") for run in tracker.runs.values()}
    found["status"] = [run.status for run in tracker.runs.values()]
    found["parents"] = sorted({str(run.parent) for run in tracker.runs.values()})
    return found


if __name__ == "__main__":
    with patch.object(cluster, "capacity", lambda scaling: 1):
        sys.stdout.write("\n" + json.dumps(main(Path(sys.argv[1]))))
