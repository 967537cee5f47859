"""What can go wrong is found before any cluster time is spent."""

import difflib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from raydistill import cluster
from raydistill.data import object_store
from raydistill.job.expand import StageRun
from raydistill.job.load import Job
from raydistill.job.plans import Plans, of_stage
from raydistill.job.record import StageRecord, job_folder, stage_record
from raydistill.stages._base import Facts
from raydistill.store_paths import is_in_store
from raydistill.tracking.store import store_of
from raydistill.user_error import UserError

_LEAST_FREE_BYTES = 2 * 2**30
_PROBE_BYTES = 2**16


@dataclass(frozen=True)
class Preview:
    """What the preflight tells of one stage."""

    stage: str
    finished: bool
    lines: list[str]
    makes: Facts | None = None
    """What is known of what it makes."""


def check_job(job: Job) -> list[Preview]:
    """Check every stage against what the stages before it will make, the machine's resources and its disk.

    Fetches small packages and reads model configurations; starts no cluster. Raises UserError, one line a problem.
    """
    problems: list[str] = []
    previews: list[Preview] = []
    problems += [*_check_storage(job), *_check_tracking(job), *cluster.machine_problems()]
    if problems and is_in_store(job.config.storage):
        # What is finished cannot be told there.
        raise UserError(problems)
    records: dict[str, StageRecord] = {}
    plans = Plans(job, records)
    for name, run in job.runs.items():
        try:
            with of_stage(name):
                records[name] = stage_record(job, run, records)
                cluster.check_resources(job.scaling(run.stage))
                decisions = plans.plan(name)
        except UserError as error:
            problems += _with_close_names(error.lines, run, [*records])
            # What builds on a stage that cannot run would only repeat its problem.
            break
        previews.append(Preview(name, records[name].finished, decisions.lines, decisions.makes))
    if problems:
        raise UserError(problems)
    return previews


def _with_close_names(lines: list[str], run: StageRun, earlier: Sequence[str]) -> list[str]:
    """The same lines; one about a reference that leads nowhere offers the earlier stage of the closest name."""
    found = []
    for line in lines:
        for reference in run.stage.references().values():
            close = difflib.get_close_matches(reference, earlier, n=1)
            if close and reference not in earlier and repr(reference) in line and not os.path.exists(reference):
                line += f"; did you mean the stage {close[0]!r}?"
        found.append(line)
    return found


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


def _check_tracking(job: Job) -> list[str]:
    try:
        store_of(job.config.tracking, job_folder(job).parent, job.name)
    except UserError as error:
        return error.lines
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
