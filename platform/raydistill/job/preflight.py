"""What can go wrong is found before any cluster time is spent."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from raydistill import cluster
from raydistill.config.errors import error_lines
from raydistill.data import object_store
from raydistill.job.expand import StageRun
from raydistill.job.load import Job
from raydistill.job.record import StageRecord, job_folder, registered_checkpoints, stage_record
from raydistill.stages._base import CorpusFacts, Decisions, Input, Inputs
from raydistill.store_paths import is_in_store
from raydistill.user_error import UserError

_LEAST_FREE_BYTES = 2 * 2**30
_PROBE_BYTES = 2**16


@dataclass(frozen=True)
class Preview:
    """What the preflight tells of one stage."""

    stage: str
    finished: bool
    lines: list[str]


def check_job(job: Job) -> list[Preview]:
    """Check every stage against what the stages before it will make, the machine's resources and its disk.

    Fetches small packages and reads model configurations; starts no cluster. Raises UserError, one line a problem.
    """
    problems: list[str] = []
    previews: list[Preview] = []
    made: dict[str, Input] = {}
    problems += _check_storage(job)
    if problems and is_in_store(job.config.storage):
        # What is finished cannot be told there.
        raise UserError(problems)
    records: dict[str, StageRecord] = {}
    for name, run in job.runs.items():
        scaling = job.scaling(run.stage)
        try:
            records[name] = stage_record(job, run, records)
            cluster.check_resources(scaling)
            decisions = run.stage.plan(scaling, _inputs(job, run, made))
        except (UserError, ValidationError) as error:
            problems += error_lines(error, source=f"stages.{name}")
            # What builds on a stage that cannot run would only repeat its problem.
            break
        made[name] = _made(decisions, records[name])
        previews.append(Preview(name, records[name].finished, decisions.lines))
    if problems:
        raise UserError(problems)
    return previews


def _inputs(job: Job, run: StageRun, made: Mapping[str, Input]) -> Inputs:
    """What each reference of a run leads to: what the first run makes stands for all of a stage."""
    earlier = {key: replace(made[names[0]], num_runs=len(names)) for key, names in run.inputs.items()}
    registered = registered_checkpoints(job, run)
    return {**earlier, **{reference: Input(folder=folder) for reference, folder in registered.items()}}


def _made(decisions: Decisions, record: StageRecord) -> Input:
    """What a stage will make; of a finished corpus its folder tells more."""
    is_there = record.finished and isinstance(decisions.makes, CorpusFacts)
    return Input(folder=record.output) if is_there else Input(decisions.makes)


def _check_storage(job: Job) -> list[str]:
    storage = job.config.storage
    if is_in_store(storage):
        return _check_store(job)
    if "://" in storage:
        return [f"storage is {storage!r}; name a folder that every machine of the cluster sees, or s3://BUCKET/PATH"]
    folder = _nearest(job_folder(job))
    if not folder.is_dir():
        return [f"storage is {job.config.storage!r}, where {folder} is a file; name another folder"]
    free = shutil.disk_usage(folder).free
    if free < _LEAST_FREE_BYTES:
        return [f"storage is {job.config.storage!r}, where {free / 2**30:.1f} GiB are free; make room for 2 GiB"]
    try:
        # Without a name, so that nothing is left.
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_PROBE_BYTES))
    except OSError as error:
        why = error.strerror or error
        return [f"storage is {job.config.storage!r}, but {folder} cannot be written ({why}); name another folder"]
    return []


def _check_store(job: Job) -> list[str]:
    storage = job.config.storage
    problems = []
    if job.config.tracking.uri is None:
        problems.append(
            f"tracking.uri is missing (jobs do not read MLFLOW_TRACKING_URI), and storage is {storage!r}, which keeps "
            "no database; name a server or a database"
        )
    found = object_store.problem(storage)
    return problems if found is None else [*problems, f"storage is {storage!r}, {found}"]


def _nearest(path: Path) -> Path:
    """The path itself or the closest folder above it that exists; a file that stands in the way."""
    return next(each for each in [path, *path.parents] if each.exists() or each.is_symlink())


def report_lines(previews: list[Preview]) -> Mapping[str, list[str]]:
    """Lines to print, by run; runs of one stage with equal lines stand under the first one's name."""
    together: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for preview in previews:
        lines = (*preview.lines, *(["finished before, will be skipped"] if preview.finished else []))
        together.setdefault((preview.stage.partition("[")[0], lines), []).append(preview.stage)
    return {_heading(names): list(lines) for (_, lines), names in together.items()}


def _heading(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
