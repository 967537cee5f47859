"""One trial: the base job cut to the searched stage, trained where the trial runs, or told again from its record."""

import shutil
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from raydistill.config import overrides, yaml_text
from raydistill.job.load import Job, load_job
from raydistill.job.preflight import check_job
from raydistill.job.record import StageRecord, job_folder, stage_records
from raydistill.job.run import JobResult, Runner
from raydistill.json_file import write_text
from raydistill.search.best_job import inputs, needed
from raydistill.search.results import TRIALS, Trial
from raydistill.search.spaces import locate
from raydistill.tracking.tracker import Tracker
from raydistill.training.history import read_history
from raydistill.training.in_process import Told, train_here
from raydistill.training.session import SaveState
from raydistill.training.trainer import CHECKPOINTS, train

FINISHED = "finished"
"""Key of the last report of a trial that trained to its end."""
_POLL_S = 0.5


class TrialError(Exception):
    """Why a trial failed, in one line."""


class Reporter(ABC):
    """What a trial tells the scheduler; ``report`` may end the trial by raising SystemExit."""

    start: Path | None = None
    """Folder with the state to continue from."""
    copied_from: int | None = None
    """Number of the trial that it is of, where that is another one."""
    folder: Path = Path()
    """The trial's output, once it is known."""
    copies: bool = False
    """Whether states are wanted, since trials may be copied."""

    @abstractmethod
    def report(self, metrics: Mapping[str, float], save_state: SaveState | None = None) -> None:
        """Tell of an evaluation: ``metric``, ``step`` and all others by their names."""


@dataclass(frozen=True)
class Plan:
    """All that the trials of a campaign have in common; travels to where they run."""

    raw: dict[str, Any]
    """Plain data of the base job, with the campaign's overrides."""
    stage: str
    metric: str
    """Its name as trainings log it."""
    campaign: str
    folder: Path
    """The campaign's."""
    tracker: Tracker
    parallel: int = 1
    """Trials at one time."""
    recorded: Mapping[int, Trial] = field(default_factory=dict)
    """Trials that ended in earlier runs of the campaign."""

    @property
    def key(self) -> str:
        """Identifies the campaign's tracked run."""
        return f"campaign/{self.campaign}"

    def trial_key(self, number: int) -> str:
        """Identifies a trial's tracked run."""
        return f"{self.key}/trial-{number:03d}"


def trial_job(plan: Plan, values: Mapping[str, Any]) -> Job:
    """The job of a trial with these values of searched keys; raises UserError."""
    raw = yaml_text.plain_copy(plan.raw)
    for key, value in values.items():
        overrides.set_value(raw, locate(raw, plan.stage, key), yaml_text.plain_copy(value))
    names = needed(inputs(load_job(raw)), plan.stage)
    return load_job({**raw, "stages": {name: stage for name, stage in raw["stages"].items() if name in names}})


def trial_records(plan: Plan, job: Job, *, copied_as: int | None = None) -> dict[str, StageRecord]:
    """The records of a trial's stages: what is there already stays where it is, the rest lies below the campaign.

    A trial that is copied changes its values, so that its number, ``copied_as``, names its folder and not its hash.
    """
    trials, found = plan.folder / TRIALS, {}
    for name, record in stage_records(job).items():
        folder = trials / record.output.name
        if name == plan.stage:
            found[name] = replace(record, output=folder if copied_as is None else trials / f"{name}-{copied_as:03d}")
        else:
            found[name] = record if record.finished else replace(record, output=folder)
    return found


def failure_path(folder: Path, number: int) -> Path:
    """Where a failed trial leaves its reason, which Ray Tune tells its driver too late."""
    return folder / TRIALS / f".failed-{number:03d}.txt"


def run_trial(plan: Plan, number: int, values: Mapping[str, Any], reporter: Reporter) -> None:
    """Make a trial and report it; one that ended before is told again as it was.

    Raises TrialError when it failed.
    """
    if number in plan.recorded:
        _tell_again(plan.recorded[number], reporter)
        return
    key = plan.trial_key(number)
    tags: dict[str, Any] = {"campaign": plan.campaign, "trial": number}
    if reporter.copied_from is not None:
        tags["copied_from"] = reporter.copied_from
    plan.tracker.start_run(key, name=f"trial {number}", parent=plan.key, tags=tags, resume=True)
    status = "FAILED"
    try:
        _make(plan, number, values, reporter)
        status = "FINISHED"
    except (SystemExit, KeyboardInterrupt):
        status = "KILLED"
        if not reporter.copies:
            # It never goes on. In a population it may already do so in another process, which clears them itself.
            shutil.rmtree(reporter.folder / CHECKPOINTS, ignore_errors=True)
        raise
    except Exception as error:
        reason = _one_line(error)
        write_text(failure_path(plan.folder, number), reason)
        raise TrialError(reason) from error
    finally:
        plan.tracker.end_run(key, status)


def _tell_again(trial: Trial, reporter: Reporter) -> None:
    for metrics in trial.reports:
        reporter.report(metrics)
    if trial.state == "failed":
        raise TrialError(trial.reason)
    if trial.state == "finished":
        assert trial.metric is not None
        reporter.report({**trial.metrics, "metric": trial.metric, "step": trial.steps, FINISHED: 1})


def _make(plan: Plan, number: int, values: Mapping[str, Any], reporter: Reporter) -> None:
    job = trial_job(plan, values)
    check_job(job)
    records = trial_records(plan, job, copied_as=number if reporter.copies else None)
    output = reporter.folder = records[plan.stage].output
    if reporter.copies:
        # What an interrupted campaign left of it is of values that it had later; a state comes from the scheduler.
        shutil.rmtree(output if reporter.start is None else output / CHECKPOINTS, ignore_errors=True)
    runner = Runner(
        job,
        records,
        plan.tracker,
        JobResult(job_folder(job)),
        lambda line: None,
        parent=plan.trial_key(number),
        own={plan.stage: plan.trial_key(number)},
        launch=_launcher(plan, job, plan.trial_key(number), reporter),
    )
    for run in job.runs.values():
        runner.run_stage([run])
    if plan.stage in runner.result.skipped:
        _tell_history(plan, output, reporter)
    summary = runner.result.summaries[plan.stage]
    shutil.rmtree(output / CHECKPOINTS, ignore_errors=True)
    reporter.report(_report(plan.metric, summary["step"], summary["metrics"], {FINISHED: 1}))


def _report(metric: str, step: int, metrics: Mapping[str, float], more: Mapping[str, float]) -> dict[str, float]:
    if metric not in metrics:
        raise ValueError(f"metric is {metric!r}, which evaluations do not have; choices: {', '.join(sorted(metrics))}")
    return {**metrics, "metric": metrics[metric], "step": step, **more}


def _launcher(plan: Plan, job: Job, key: str, reporter: Reporter) -> Callable[..., Any]:
    """What trains: the loop in this process, or a group of workers whose history is followed."""
    workers = job.scaling(job.stages[plan.stage]).num_workers

    def launch(spec: Any, output: str, tracker: Tracker, run_key: str, *, parallel: int) -> Any:
        call = partial(train, spec, output, tracker, run_key, parallel=plan.parallel)
        if run_key != key:
            # A stage before the searched one, about which nobody asks.
            return call()
        if workers > 1:
            return _train_group(plan, call, Path(output), reporter)
        return train_here(spec, output, tracker, run_key, parallel=plan.parallel, told=_Told(plan, reporter))

    return launch


class _Told(Told):
    """Passes evaluations on to the scheduler."""

    def __init__(self, plan: Plan, reporter: Reporter) -> None:
        self._plan, self._reporter = plan, reporter
        self.start, self.is_copy = reporter.start, reporter.copied_from is not None

    def evaluated(self, step: int, metrics: Mapping[str, float], save_state: SaveState) -> None:
        self._reporter.report(_report(self._plan.metric, step, metrics, {}), save_state)


def _train_group(plan: Plan, call: Callable[[], Any], output: Path, reporter: Reporter) -> Any:
    """Wait for a group's training in a thread, and report the evaluations that appear in its history."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    told = 0
    while thread.is_alive():
        thread.join(_POLL_S)
        found = _evaluations(plan, output)
        # The last evaluation is told with the result; which one is the last is known when another follows.
        for line in found[told:-1]:
            reporter.report(_report(plan.metric, int(line["step"]), _figures(line), {}))
        told = max(told, len(found) - 1)
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _tell_history(plan: Plan, output: Path, reporter: Reporter) -> None:
    """Report the evaluations of a training that ended before, all but the last."""
    found = _evaluations(plan, output)
    for line in found[:-1]:
        reporter.report(_report(plan.metric, int(line["step"]), _figures(line), {}))


def _evaluations(plan: Plan, output: Path) -> list[dict[str, float]]:
    """The lines of a training's history that evaluations wrote, but for the one before the first step."""
    return [line for line in read_history(output) if plan.metric in line and line["step"] > 0]


def _figures(line: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in line.items() if name != "step"}


def _one_line(error: BaseException) -> str:
    lines = getattr(error, "lines", None) or [line.strip() for line in str(error).splitlines() if line.strip()]
    text = "; ".join(lines[:1] if not hasattr(error, "lines") else lines)
    plain = isinstance(error, ValueError) and text
    return text if plain else f"{type(error).__name__}: {text}" if text else type(error).__name__
