"""What of a job's files nothing needs any more, how much that is, and its removal."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from raydistill.data.storages import storage_at
from raydistill.job.graph import named_of
from raydistill.job.load import Job
from raydistill.job.record import StageRecord, job_folder, stage_records
from raydistill.job.run import folder_alone

Keep = Literal["outputs", "registered"]
KEEPS: tuple[Keep, ...] = ("outputs", "registered")
"""``outputs``: what the stages of the job as it is made; ``registered``: what they compared and reported, beside the
model registry, which has copies of its own."""
_OUTPUT = re.compile(r"(?P<stage>.+)-[0-9a-f]{8}")
_READ_BY_PEOPLE = ("evaluate", "report", "register")


@dataclass(frozen=True)
class Removable:
    """A folder that may go."""

    path: Path
    bytes: int
    why: str


def removable(job: Job, *, keep: Keep = "outputs") -> list[Removable]:
    """The folders of a job that may go, the largest first.

    Checkpoints of trainings that finished go, and copies of the student that no stage names, unless they are to be
    kept, and outputs that the job with other values left: the job as it is goes on from what stays. With ``registered``
    the outputs of its own stages go too, where its models are registered; the job would make them again. Raises
    UserError as ``stage_records`` does.
    """
    records = stage_records(job)
    own = {record.output: record for record in records.values()}
    found = []
    for path in storage_at(job_folder(job)).subfolders():
        stage = _OUTPUT.fullmatch(path.name)
        if stage is None:
            continue
        if path not in own:
            found.append(_of(path, "the job with other values made it"))
        elif keep == "registered" and _is_registered(job, records) and _may_go(job, own[path]):
            found.append(_of(path, "its models are registered, and the job would make it again"))
        elif own[path].finished:
            run = job.runs[own[path].name]
            found += [_of(one, "the training is finished") for one in run.stage.leftovers(path, named_of(job, run))]
    return sorted((one for one in found if one.bytes), key=lambda one: -one.bytes)


def _is_registered(job: Job, records: dict[str, StageRecord]) -> bool:
    """Whether every stage that registers a model did so."""
    registering = [name for name, run in job.runs.items() if run.stage.config.kind == "register"]
    return bool(registering) and all(records[name].finished for name in registering)


def _may_go(job: Job, record: StageRecord) -> bool:
    return job.runs[record.name].stage.config.kind not in _READ_BY_PEOPLE


def _of(path: Path, why: str) -> Removable:
    # A line has name, size and time.
    size = sum(int(line.rsplit(" ", 2)[1]) for line in storage_at(path).contents())
    return Removable(path, size, why)


def remove(job: Job, found: Sequence[Removable]) -> None:
    """Delete folders of a job; raises UserError while it runs, and OSError for one that cannot be deleted."""
    with folder_alone(job_folder(job), f"job {job.name}"):
        for one in found:
            storage_at(one.path).remove()
