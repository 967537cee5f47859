"""What Ray Tune runs as a trial, and how that reports to it."""

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ray import tune

from raydistill.search.domains import Values
from raydistill.search.results import TrialEvent
from raydistill.search.trial import ExchangedState, Report, TrialContext, run_trial
from raydistill.training.session import SaveState

METRIC, CLOCK, EVENT = "metric", "clock", "event"
"""Keys of a report: ``CLOCK`` is the step of the latest evaluation after which the trial goes on."""
_STATE = "exchanged_state.json"
_THREAD_END_S = 60
"""How long an ended trial may take to leave its process to the next."""


def name_of(trial: Any) -> str:
    """The name of a trial of Ray Tune, as it was suggested."""
    # A copy of another trial gets all of that one's configuration, its number too.
    return str(trial.custom_trial_name or f"trial-{trial.config['number']:03d}")


def number_of(name: str) -> int:
    """The number of a trial by its name."""
    return int(name.removeprefix("trial-"))


def trainable(context: TrialContext) -> Callable[[Values], None]:
    """The function of a trial's configuration that Ray Tune runs."""

    def trial(config: Values) -> None:
        os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = str(_THREAD_END_S)
        number = number_of(tune.get_context().get_trial_name())
        found = None if context.exchange_steps is None else tune.get_checkpoint()
        with nullcontext() if found is None else found.as_directory() as folder:
            start = None if folder is None else _read_state(Path(folder))
            report = _report(context.exchange_steps, 0 if start is None else start.step)
            run_trial(context, number, config["values"], report, start=start)

    return trial


def _report(exchange_steps: int | None, start: int) -> Report:
    """Reports to Ray Tune, which ends the thread here when the trial is to stop; states go along where it exchanges."""
    clock = saved = start

    def report(event: TrialEvent, save_state: SaveState | None) -> None:
        nonlocal clock, saved
        if not event.finished:
            # A trial that has finished is at no point where the scheduler could decide: nothing is to go on.
            clock = event.step
        result = {METRIC: event.metric, CLOCK: clock, EVENT: event}
        if save_state is None or exchange_steps is None or event.step - saved < exchange_steps:
            tune.report(result)
            return
        saved = event.step
        with tempfile.TemporaryDirectory() as folder:
            save_state(Path(folder))
            state = {"trial": event.trial, "step": event.step, "course": event.course}
            (Path(folder) / _STATE).write_text(json.dumps(state), encoding="utf-8")
            tune.report(result, checkpoint=tune.Checkpoint.from_directory(folder))

    return report


def _read_state(folder: Path) -> ExchangedState:
    return ExchangedState(folder, **json.loads((folder / _STATE).read_text(encoding="utf-8")))
