"""Trainings of a toy search repeated by the course of a trial, without Ray; run as a process of its own."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from raydistill import cluster
from raydistill.search.campaign import trial_context
from raydistill.search.results import TrialEvent
from raydistill.search.trial import ExchangedState, run_trial
from toys.search import make_search
from toys.tracker import MemoryTracker

PARALLEL = 2
"""Trials at one time, which share the cores."""


def live(folder: Path) -> dict[str, Any]:
    """Keys that leave a toy search nothing to make before its trials."""
    return {"distill.teacher_outputs": "live", "distill.student.checkpoint": str(folder / "teacher")}


class Saves:
    """Keeps the state at a step and ends there, or hears the last metric."""

    def __init__(self, stop: int | None, target: Path) -> None:
        self._stop, self._target = stop, target

    def __call__(self, event: TrialEvent, save_state: Any) -> None:
        """Save and end at the step, else keep the last event."""
        if event.step == self._stop:
            save_state(self._target)
            raise SystemExit
        self.last = event


def repeat(folder: Path, course: list[dict[str, Any]]) -> dict[str, Any]:
    """One training after the other, each from the state that the one before it left; the student of the last."""
    search = make_search(folder, overrides=live(folder))
    campaign = folder / "repeated"
    (campaign / "trials").mkdir(parents=True)
    # With as many threads as the trials had: Adam makes steps of what rounding leaves where a gradient is zero.
    context = replace(
        trial_context(search), folder=campaign, tracker=MemoryTracker(), parallel=PARALLEL, exchange_steps=1
    )
    start: ExchangedState | None = None
    stops = [part["step"] for part in course[1:]]
    for number, (part, stop) in enumerate(zip(course, [*stops, None], strict=True)):
        target = campaign / f"state-{number}"
        target.mkdir()
        saves = Saves(stop, target)
        try:
            run_trial(context, number, part["values"], saves, start=start)
        except SystemExit:
            assert stop is not None
        start = ExchangedState(target, number, stop or 0, [])
    return {"metric": saves.last.metric, "student": str(saves.last.folder / "student")}


if __name__ == "__main__":
    with patch.object(cluster, "capacity", lambda scaling: 1):
        sys.stdout.write("\n" + json.dumps(repeat(Path(sys.argv[1]), json.loads(sys.argv[2]))))
