"""What Ray Tune runs as a trial, and how that reports to it."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray import tune

from raydistill.search.listener import Values
from raydistill.search.trial import FINISHED, Plan, Reporter, run_trial
from raydistill.training.session import SaveState

METRIC, STEP, CLOCK = "metric", "step", "clock"
"""Keys of a report: ``CLOCK`` is the step of the latest evaluation after which the trial goes on."""
_COURSE = "course.json"
_THREAD_END_S = 60
"""How long an ended trial may take to leave its process to the next."""


def name_of(trial: Any) -> str:
    """The name of a trial of Ray Tune, as it was suggested."""
    # A copy of another trial gets all of that one's configuration, its number too.
    return str(trial.custom_trial_name or f"trial-{trial.config['number']:03d}")


def number_of(name: str) -> int:
    """The number of a trial by its name."""
    return int(name.removeprefix("trial-"))


def trainable(plan: Plan, *, exchange_steps: int | None) -> Callable[[Values], None]:
    """The function of a trial's configuration that Ray Tune runs.

    ``exchange_steps`` are the optimizer steps between the exchanges of a population, None where trials are not copied.
    """

    def trial(config: Values) -> None:
        os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = str(_THREAD_END_S)
        number = number_of(tune.get_context().get_trial_name())
        found = None if exchange_steps is None else tune.get_checkpoint()
        if found is None:
            run_trial(plan, number, config["values"], TuneReporter(number, config["values"], exchange_steps))
            return
        with found.as_directory() as folder:
            reporter = TuneReporter(number, config["values"], exchange_steps, start=Path(folder))
            run_trial(plan, number, config["values"], reporter)

    return trial


class TuneReporter(Reporter):
    """Reports to Ray Tune, which ends the thread here when the trial is to stop."""

    def __init__(self, number: int, values: Values, exchange_steps: int | None, *, start: Path | None = None) -> None:
        self.copies, self.start = exchange_steps is not None, start
        self._number, self._exchange_steps = number, exchange_steps
        self._clock = self._saved = 0
        earlier: list[dict[str, Any]] = []
        if start is not None:
            state = json.loads((start / _COURSE).read_text(encoding="utf-8"))
            self._clock = self._saved = int(state["step"])
            earlier = state["course"]
            if state["owner"] != number:
                self.copied_from = int(state["owner"])
        self._course = [*earlier, {"step": self._saved, "trial": number, "values": values}]
        if start is not None and self.copied_from is None:
            # It only had to make room for others.
            self._course = earlier

    def report(self, metrics: Mapping[str, float], save_state: SaveState | None = None) -> None:
        """Tell Ray Tune; the state goes along where a population exchanges."""
        figures = {name: value for name, value in metrics.items() if name not in (METRIC, STEP, FINISHED)}
        step = int(metrics[STEP])
        if not metrics.get(FINISHED):
            # A trial that has finished is at no point where the scheduler could decide: nothing is to go on.
            self._clock = step
        told = {
            METRIC: metrics[METRIC],
            CLOCK: self._clock,
            STEP: step,
            FINISHED: bool(metrics.get(FINISHED)),
            "figures": figures,
            "folder": str(self.folder),
            "course": self._course if self.copies else [],
        }
        if save_state is None or self._exchange_steps is None or step - self._saved < self._exchange_steps:
            tune.report(told)
            return
        self._saved = step
        with tempfile.TemporaryDirectory() as folder:
            save_state(Path(folder))
            state = {"owner": self._number, "step": step, "course": self._course}
            (Path(folder) / _COURSE).write_text(json.dumps(state), encoding="utf-8")
            tune.report(told, checkpoint=tune.Checkpoint.from_directory(folder))
