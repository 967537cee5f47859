"""One trial: the base job cut to the searched stage, trained where the trial runs, or told again from its record."""

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import wait
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from raydistill.atomic import write_text
from raydistill.job.load import Job
from raydistill.job.preflight import check_job
from raydistill.job.record import StageRecord, job_folder, stage_records
from raydistill.job.run import JobResult, Runner
from raydistill.search.domains import Values
from raydistill.search.records import failure_path
from raydistill.search.results import TRIALS, Trial, TrialEvent
from raydistill.search.spaces import trial_job
from raydistill.threads import in_thread
from raydistill.tracking.tracker import Tracker
from raydistill.training.history import read_history
from raydistill.training.in_process import train_here
from raydistill.training.session import SaveState
from raydistill.training.trainer import CHECKPOINTS, train
from raydistill.user_error import UserError, said, user_error_of

_POLL_S = 0.5

Report = Callable[[TrialEvent, SaveState | None], None]
"""Tells the scheduler of an event, with what saves the training's state where it goes on; SystemExit ends the trial."""


class TrialError(Exception):
    """Why a trial failed, in one line."""


@dataclass(frozen=True)
class TrialContext:
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
    exchange_steps: int | None = None
    """Optimizer steps between the exchanges of a population, None where trials are not copied."""
    recorded: Mapping[int, Trial] = field(default_factory=dict)
    """Trials that ended in earlier runs of the campaign."""

    @property
    def key(self) -> str:
        """Identifies the campaign's tracked run."""
        return f"campaign/{self.campaign}"

    def trial_key(self, number: int) -> str:
        """Identifies a trial's tracked run."""
        return f"{self.key}/trial-{number:03d}"


@dataclass(frozen=True)
class ExchangedState:
    """The state of a trial of a population, from which that trial or another goes on."""

    folder: Path
    trial: int
    """Whose it is."""
    step: int
    course: list[dict[str, Any]]
    """See ``Trial.course``."""


def trial_records(context: TrialContext, job: Job, number: int) -> dict[str, StageRecord]:
    """The records of a trial's stages: what is there already stays where it is, the rest lies below the campaign.

    A trial of a population changes its values, so that its number names its folder there and not its hash.
    """
    trials, found = context.folder / TRIALS, {}
    for name, record in stage_records(job).items():
        if name == context.stage and context.exchange_steps is not None:
            found[name] = replace(record, output=trials / f"{name}-{number:03d}")
        elif name == context.stage or not record.finished:
            found[name] = replace(record, output=trials / record.output.name)
        else:
            found[name] = record
    return found


def run_trial(
    context: TrialContext, number: int, values: Values, report: Report, *, start: ExchangedState | None = None
) -> None:
    """Make a trial, from a state where one is given, and report it; one that ended before is told again as it was.

    Raises TrialError when it failed.
    """
    if number in context.recorded:
        _report_again(context.recorded[number], report)
        return
    key, run = context.trial_key(number), _TrialRun(context, number, values, report, start)
    tags: dict[str, Any] = {"campaign": context.campaign, "trial": number}
    if start is not None and run.is_copy:
        tags["copied_from"] = start.trial
    context.tracker.start_run(key, name=f"trial {number}", parent=context.key, tags=tags, resume=True)
    status = "FAILED"
    try:
        run.make()
        status = "FINISHED"
    except (SystemExit, KeyboardInterrupt):
        status = "KILLED"
        raise
    except Exception as error:
        reason = _one_line(error)
        write_text(failure_path(context.folder, number), reason)
        raise TrialError(reason) from error
    finally:
        context.tracker.end_run(key, status)


def _report_again(trial: Trial, report: Report) -> None:
    for event in trial.events():
        report(event, None)
    if trial.state == "failed":
        raise TrialError(trial.reason)


@dataclass(frozen=True)
class _TrialRun:
    """A trial while it is made."""

    context: TrialContext
    number: int
    values: Values
    report: Report
    start: ExchangedState | None

    @cached_property
    def job(self) -> Job:
        return trial_job(self.context.raw, self.context.stage, self.values)

    @cached_property
    def records(self) -> dict[str, StageRecord]:
        return trial_records(self.context, self.job, self.number)

    @property
    def output(self) -> Path:
        return self.records[self.context.stage].output

    @property
    def is_copy(self) -> bool:
        """Whether it goes on from another trial."""
        return self.start is not None and self.start.trial != self.number

    def make(self) -> None:
        """Run the stages that are not finished, report the evaluations of the last and then its student."""
        check_job(self.job)
        in_population = self.context.exchange_steps is not None
        if in_population:
            # What an interrupted campaign left of it is of values that it had later; a state comes from the scheduler.
            shutil.rmtree(self.output if self.start is None else self.output / CHECKPOINTS, ignore_errors=True)
        stage, key = self.context.stage, self.context.trial_key(self.number)
        result = JobResult(job_folder(self.job))
        runner = Runner(
            self.job,
            self.records,
            self.context.tracker,
            result,
            lambda line: None,
            parent=key,
            own={stage: key},
            launch=self._launch,
        )
        try:
            for run in self.job.runs.values():
                runner.run_stage([run])
            if stage in result.skipped:
                self._report_history(0)
        except (SystemExit, KeyboardInterrupt):
            if not in_population:
                # It never goes on. In a population it may already do so in another process, which clears them itself.
                shutil.rmtree(self.output / CHECKPOINTS, ignore_errors=True)
            raise
        summary = result.summaries[stage]
        shutil.rmtree(self.output / CHECKPOINTS, ignore_errors=True)
        self.report(self._event(summary["step"], summary["metrics"], finished=True), None)

    def _launch(self, spec: Any, output: str, tracker: Tracker, run_key: str, *, parallel: int) -> Any:
        """Train in this process, or in a group of workers; of stages before the searched one nothing is reported."""
        call = partial(train, spec, output, tracker, run_key, parallel=self.context.parallel)
        if run_key != self.context.trial_key(self.number):
            return call()
        if spec.scaling.num_workers > 1:
            return self._train_group(call)
        return train_here(
            spec,
            output,
            tracker,
            run_key,
            parallel=self.context.parallel,
            callback=lambda step, metrics, save_state: self.report(self._event(step, metrics), save_state),
            start=None if self.start is None else self.start.folder,
            is_copy=self.is_copy,
        )

    def _train_group(self, call: Callable[[], Any]) -> Any:
        """Wait for a group's training in a thread, and report the evaluations that appear in its history."""
        outcome, reported = in_thread(call), 0
        while not outcome.done():
            wait([outcome], timeout=_POLL_S)
            reported = self._report_history(reported)
        return outcome.result()

    def _report_history(self, reported: int) -> int:
        """Report the evaluations in the training's history after so many, all but the one before the first step.

        The last is reported with the student; which one is the last is known when another follows. Returns how many
        are reported by now.
        """
        metric = self.context.metric
        found = [line for line in read_history(self.output) if metric in line and line["step"] > 0]
        for line in found[reported:-1]:
            metrics = {name: value for name, value in line.items() if name != "step"}
            self.report(self._event(int(line["step"]), metrics), None)
        return max(reported, len(found) - 1)

    def _event(self, step: int, metrics: Mapping[str, float], *, finished: bool = False) -> TrialEvent:
        metric = self.context.metric
        if metric not in metrics:
            choices = ", ".join(sorted(metrics))
            raise UserError(f"metric is {metric!r}, which evaluations do not have; choices: {choices}")
        return TrialEvent(
            trial=self.number,
            values=self.values,
            step=step,
            metric=metrics[metric],
            metrics=dict(metrics),
            folder=self.output,
            course=self._course(),
            finished=finished,
        )

    def _course(self) -> list[dict[str, Any]]:
        if self.context.exchange_steps is None:
            return []
        own = {"step": 0 if self.start is None else self.start.step, "trial": self.number, "values": self.values}
        if self.start is None:
            return [own]
        # A trial that only had to make room for others goes on as it was.
        return [*self.start.course, own] if self.is_copy else self.start.course


def _one_line(error: BaseException) -> str:
    refusal = user_error_of(error)
    return said(error) if refusal is None else "; ".join(refusal.lines)
