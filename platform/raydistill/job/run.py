"""Run a job: each unfinished run of its stages in order, tracked, with finished ones skipped."""

import hashlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from raydistill import cluster
from raydistill.atomic import write_text
from raydistill.config import yaml_text
from raydistill.data.storage import Folder
from raydistill.data.storages import storage_at
from raydistill.discovery import unknown_choice
from raydistill.job.datasets import log_datasets
from raydistill.job.expand import StageRun
from raydistill.job.graph import named_of
from raydistill.job.load import Job
from raydistill.job.parallel import run_together
from raydistill.job.plans import Plans
from raydistill.job.record import StageRecord, job_folder, registered_checkpoints, stage_records
from raydistill.locks import HeldError, hold, locked
from raydistill.report.tables import Entry, data_frame, group
from raydistill.stages._base import Run, StageContext, stage_of
from raydistill.store_paths import is_in_store, shown
from raydistill.tracking.provenance import command, environment, repeat_command
from raydistill.tracking.tracker import Tracker, start_tracker
from raydistill.training.kept_process import KeptProcesses, is_kept
from raydistill.training.result import TrainResult
from raydistill.training.trainer import interruption
from raydistill.user_error import UserError, placed

Echo = Callable[[str], None]
_JOB_KEY = "job"
_LOCK = ".lock"


@dataclass
class JobResult:
    """What a finished job left: its folder, each run's output and summary, and which runs were skipped."""

    folder: Path
    outputs: dict[str, Path] = field(default_factory=dict)
    summaries: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    lost: str = ""
    """What the tracking store will never have, and why, in one line."""

    def table(self, stage: str) -> Any:
        """The figures of a stage that compared models as a pandas DataFrame: a row for each run of each model.

        Its columns are ``model``, the keys of a matrix, and figures, in a report's units. Raises ValueError for a
        stage that compared none.
        """
        tables = [name for name, summary in self.summaries.items() if "entries" in summary]
        if stage not in tables:
            raise UserError(unknown_choice("stage", stage, tables))
        return data_frame([Entry.of(entry) for entry in self.summaries[stage]["entries"]])


def run_job(job: Job, *, echo: Echo) -> JobResult:
    """Run what is not finished yet and return where everything is.

    ``echo`` gets one line for each run that starts, ends or is skipped. A cluster is started, or joined, only
    when there is something to run. An interrupted run continues in its own folder when the job runs again.
    Raises ValueError, of one line, while another process runs a job in the same folder.
    """
    folder = job_folder(job)
    with folder_alone(folder, f"job {job.name}"):
        return _run_in(folder, job, echo)


@contextmanager
def folder_alone(folder: Path, what: str) -> Iterator[None]:
    """Keep others out of the folder of a job or campaign; raises ValueError, of one line, where one is in it already.

    Holds on this machine, and on others where ``folder`` is on a shared file system that has locks.
    """
    try:
        lock = hold(folder / _LOCK)
    except HeldError as error:
        raise UserError(
            f"{what} is already running in {shown(folder)} ({error.holder}); wait until it ends, stop it, or "
            "set another name"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _run_in(folder: Path, job: Job, echo: Echo) -> JobResult:
    records = stage_records(job)
    result = JobResult(folder)
    resolved = _write_resolved(job, result.folder)
    if all(record.finished for record in records.values()):
        for name in job.runs:
            _skip(result, records[name], echo)
        return result
    has_matrix = len(job.runs) > len(job.config.stages)
    with cluster.connection([job.scaling(stage) for stage in job.stages.values()], whole_machine=has_matrix):
        tracker = start_tracker(job.config.tracking, folder=str(folder.parent), job=job.name)
        try:
            with KeptProcesses() as processes:
                if any(_will_keep(job, run) for name, run in job.runs.items() if not records[name].finished):
                    # Beside the tracker, which takes seconds too.
                    processes.prepare()
                tracker.ready()
                runner = Runner(job, records, tracker, result, echo, launch=processes.train)
                with _told_of_interruption(runner):
                    runner.run(resolved)
        finally:
            tracker.close()
        result.lost = tracker.lost
    return result


def _will_keep(job: Job, run: StageRun) -> bool:
    return run.stage.trains and is_kept(job.scaling(run.stage))


@contextmanager
def _told_of_interruption(runner: "Runner") -> Iterator[None]:
    """At Ctrl-C, tell of each training that runs how many of its steps are lost, before anything else ends."""
    try:
        yield
    except KeyboardInterrupt:
        for name in [*runner.training]:
            runner.echo(f"{name}: {interruption(str(runner.records[name].output))}")
        raise


def _write_resolved(job: Job, folder: Path) -> Path:
    """The resolved job under a name of its content, which later runs with other values leave alone."""
    text = yaml_text.dump(job.dump())
    path = folder / f"resolved-{hashlib.sha256(text.encode()).hexdigest()[:8]}.yaml"
    for target in (path, folder / "resolved.yaml"):
        write_text(target, text)
        storage_at(target).publish()
    return path


def tables_as_metrics(summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The figures of all stages that compared models, means over seeds, as ``stage/model/figure``."""
    return {
        f"{stage}/{row.name}/{figure}": value.mean
        for stage, summary in summaries.items()
        if "entries" in summary
        for row in group([Entry.of(entry) for entry in summary["entries"]])
        for figure, value in row.figures.items()
    }


def _skip(result: JobResult, record: StageRecord, echo: Echo) -> None:
    result.outputs[record.name] = record.output
    result.summaries[record.name] = record.read()["summary"]
    result.skipped.append(record.name)
    echo(f"{record.name}: finished before, skipped ({shown(record.output)})")


@dataclass
class Runner:
    """The runs of one job in this process."""

    job: Job
    records: Mapping[str, StageRecord]
    tracker: Tracker
    result: JobResult
    echo: Echo
    parent: str = ""
    """Key of the tracked run that those of the stages are part of, by default the job's own."""
    own: Mapping[str, str] = field(default_factory=dict)
    """Key of a tracked run that a stage's run records to, instead of one that is started for it."""
    launch: Callable[..., TrainResult] | None = None
    """What trains, see ``StageContext``."""
    training: set[str] = field(default_factory=set, init=False)
    """Runs that train now."""
    resolved: Path | None = field(default=None, init=False)
    """See ``StageContext``."""

    @cached_property
    def plans(self) -> Plans:
        """What its runs will do as far as that is known; each finished stage tells more."""
        found = Plans(self.job, self.records)
        found.plan_all()
        return found

    def run(self, resolved: Path) -> None:
        """Run all stages under a tracked run of the job."""
        self.resolved = resolved
        key = self._key(_JOB_KEY)
        self.tracker.start_run(key, name=self.job.name, tags=self._job_tags(resolved), resume=True)
        self.tracker.log_artifact(key, str(resolved))
        with self.tracker.ended(key):
            self.tracker.log_params(key, self.job.given())
            for _, group in itertools.groupby(self.job.runs.values(), key=lambda run: run.base):
                self.run_stage(list(group))
            self.tracker.log_metrics(key, tables_as_metrics(self.result.summaries))
            for run in self.job.runs.values():
                self._log_datasets(run, key, [*self._read(run), (run.base, self.records[run.name].output)])

    def _key(self, name: str) -> str:
        return f"{self.job.name}/{name}"

    def _job_tags(self, resolved: Path) -> dict[str, str]:
        repeat = repeat_command(resolved)
        return {"job": self.job.name, "command": command(), "repeat": repeat, **environment()}

    def run_stage(self, runs: list[StageRun]) -> None:
        """The runs of one stage that have not finished yet, side by side where the cluster has room.

        Then those that read it are planned with what it left: raises UserError, before the next stage starts, for
        what cannot be done with that.
        """
        config, plans = runs[0].stage.config, self.plans
        room = min(cluster.capacity(self.job.scaling(run.stage)) for run in runs)
        parallel = max(1, min(len(runs), room, config.max_parallel or room))
        waiting = []
        for run in runs:
            if self.records[run.name].finished and not named_of(self.job, run):
                self._skip(run)
            else:
                waiting.append(partial(self._run_one, run, parallel))
        run_together(waiting, limit=parallel)
        plans.take(run.name for run in runs)

    def _skip(self, run: StageRun) -> None:
        """Take what a run left, and make again what of it only this job names."""
        record, named = self.records[run.name], named_of(self.job, run)
        _skip(self.result, record, self.echo)
        if named:
            run.stage.restore(named, self._context(run, self._key(record.key), parallel=1))

    def _run_one(self, run: StageRun, parallel: int) -> None:
        record = self.records[run.name]

        def tell() -> None:
            self.echo(f"{run.name}: waiting, another process makes it in {shown(record.output)}")

        # Campaigns share the stages before the searched one with their job, and trials theirs with each other.
        with locked(record.output.with_name(f".{record.output.name}.lock"), waiting=tell):
            if record.finished:
                self._skip(run)
            else:
                self._make(run, record, parallel)

    def _make(self, run: StageRun, record: StageRecord, parallel: int) -> None:
        key = self.own.get(run.name, self._key(record.key))
        resumed = Folder(record.output).exists()
        record.output.mkdir(parents=True, exist_ok=True)
        self.echo(f"{run.name}: {'continuing' if resumed else 'started'} ({run.stage.config.kind})")
        start = time.monotonic()
        with self._tracked(run, key):
            if not (resumed and run.name in self.own):
                # Of somebody else's run that goes on they are known, and cannot change.
                self.tracker.log_params(key, run.stage.config.model_dump(mode="json", exclude={"matrix"}))
            self._log_datasets(run, key, self._read(run))
            if run.stage.trains:
                self.training.add(run.name)
            with placed(f"stages.{run.name}"):
                summary = run.stage.run(self._context(run, key, parallel))
            self.training.discard(run.name)
            self._log_datasets(run, key, [(run.base, record.output)])
        # A finished stage is not run again, so nothing would track it again.
        self.tracker.wait_until_spooled()
        record.write(summary, seconds=time.monotonic() - start)
        for folder in run.stage.leftovers(record.output, named_of(self.job, run)):
            storage_at(folder).remove()
        self.result.outputs[run.name] = record.output
        self.result.summaries[run.name] = summary
        self.echo(f"{run.name}: finished in {time.monotonic() - start:.0f} s")

    def _log_datasets(self, run: StageRun, key: str, places: Sequence[tuple[str, Path | str]]) -> None:
        log_datasets(self.tracker, key, places, parts=run.stage.PARTS)

    def _read(self, run: StageRun) -> list[tuple[str, Path | str]]:
        """What a run reads of earlier ones, by the stage's name, and of folders outside the job, by theirs."""
        earlier = {stage: [self.records[name].output for name in names] for stage, names in run.inputs.items()}
        outside = {one for one in run.stage.references().values() if one and stage_of(one) not in earlier}
        return [
            *(
                (self.job.runs[run.inputs[stage][0]].base, folder)
                for stage, found in earlier.items()
                for folder in found
            ),
            *((Path(one).name, one) for one in sorted(outside) if is_in_store(one) or Path(one).is_dir()),
        ]

    @contextmanager
    def _tracked(self, run: StageRun, key: str) -> Iterator[None]:
        """The run that a stage records to: its own, or one that somebody else starts and ends."""
        if run.name in self.own:
            self.tracker.set_tags(key, self._tags(run))
            yield
            return
        parent = self.parent or self._key(_JOB_KEY)
        self.tracker.start_run(key, name=run.name, parent=parent, tags=self._tags(run), resume=True)
        with self.tracker.ended(key):
            yield

    def _tags(self, run: StageRun) -> dict[str, Any]:
        record = self.records[run.name]
        inputs = {
            f"input.{key}": "+".join(self.records[name].hash for name in names) for key, names in run.inputs.items()
        }
        matrix = {f"matrix.{key}": label for key, label in run.assignment.items()}
        return {
            "stage": run.stage.config.kind,
            "stage.name": run.base,
            "hash": record.hash,
            "seed": self.job.seed(run),
            **inputs,
            **matrix,
        }

    def _hash(self, name: str) -> str:
        return self.records[name].hash

    def _context(self, run: StageRun, key: str, parallel: int) -> StageContext:
        return StageContext(
            job_name=self.job.name,
            seed=self.job.seed(run),
            scaling=self.job.scaling(run.stage),
            output=self.records[run.name].output,
            runs={reference: [self._finished(name) for name in names] for reference, names in run.inputs.items()},
            facts={reference: self.plans.made[names[0]].facts for reference, names in run.inputs.items()},
            registered=registered_checkpoints(self.job, run),
            tracker=self.tracker,
            run_key=key,
            parallel=parallel,
            storage=self.result.folder.parent,
            resolved=self.resolved,
            echo=lambda line: self.echo(f"{run.name}: {line}"),
            launch=self.launch,
        )

    def _finished(self, name: str) -> Run:
        assignment = self.job.runs[name].assignment
        return Run(name, assignment, self.result.outputs[name], self.result.summaries[name])
