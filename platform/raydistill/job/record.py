"""What a job leaves beside its stages' outputs: their hashes, whether they finished, and their summaries."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raydistill.config.named import plugins_in
from raydistill.data.corpus import MANIFEST
from raydistill.data.input_splits import TRAIN, VALIDATION
from raydistill.data.storage import Folder
from raydistill.data.storages import storage_at
from raydistill.job.expand import StageRun
from raydistill.job.load import Job
from raydistill.registry.checkpoints import checkpoint_folder
from raydistill.registry.reference import is_registered
from raydistill.stages._base import RECORD, stage_hash, stage_of
from raydistill.store_paths import at_home, cache_folder, is_in_store, local_path
from raydistill.tracking.store import store_of
from raydistill.training.trainer import CHECKPOINTS
from raydistill.user_error import UserError, placed


@dataclass(frozen=True)
class StageRecord:
    """One stage of a job on disk: its hash, its output folder and, once it finished, its summary."""

    name: str
    hash: str
    output: Path

    @property
    def key(self) -> str:
        """Identifies the stage's tracked run."""
        return f"{self.name}-{self.hash}"

    @property
    def finished(self) -> bool:
        """Whether the stage ran to its end with this hash."""
        return Folder(self.output).exists(RECORD)

    def read(self) -> dict[str, Any]:
        """The stored record: ``hash``, ``summary``, ``seconds``, ``finished_at``."""
        stored: dict[str, Any] = json.loads(Folder(self.output).read_bytes(RECORD))
        return stored

    def write(self, summary: Mapping[str, Any], *, seconds: float) -> None:
        """Mark the stage finished, in one step; its files are sent to the object store before, where it has one."""
        storage_at(self.output).publish(leave_out=[CHECKPOINTS])
        content = {
            "hash": self.hash,
            "finished_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "seconds": round(seconds, 3),
            "summary": dict(summary),
        }
        Folder(self.output).write_at_once(RECORD, json.dumps(content, indent=2).encode())


def job_folder(job: Job) -> Path:
    """The folder of a job's outputs, under its storage, absolute; for an object store the path that stands for it."""
    with placed("storage"):
        return (_absolute(job.config.storage) / job.name).resolve()


def _absolute(place: str) -> Path:
    return at_home(local_path(place)).resolve()


def registered_checkpoints(job: Job, run: StageRun) -> dict[str, Path]:
    """The folder of each registered model that a run refers to, by the reference; downloaded where it is not here.

    Raises ValueError when the job's MLflow store does not have one, or does not answer.
    """
    references = list(filter(is_registered, run.stage.references().values()))
    if not references:
        return {}
    uri = store_of(job.config.tracking, job_folder(job).parent, job.name).uri
    cache = cache_folder() / "registered"
    return {reference: checkpoint_folder(reference, cache, registry=uri) for reference in references}


def stage_records(job: Job) -> dict[str, StageRecord]:
    """Every run's record by name; raises ValueError as ``stage_record`` does."""
    records: dict[str, StageRecord] = {}
    for name, run in job.runs.items():
        records[name] = stage_record(job, run, records)
    return records


def stage_record(job: Job, run: StageRun, earlier: Mapping[str, StageRecord]) -> StageRecord:
    """The record of one run, given those before it.

    Its hash covers configuration, seed, inputs' hashes, files outside the job, and the plug-ins that it uses. Raises
    ValueError when a source it reads is not there, or when another run of the job would do the same.
    """
    registered = registered_checkpoints(job, run)
    hashes: dict[str, str] = {}
    outside: dict[str, str | None] = {}
    for key, reference in run.stage.references().items():
        names = run.inputs.get(stage_of(reference))
        if names is not None:
            hashes[key] = "+".join(earlier[name].hash for name in names)
        elif reference in registered:
            # Of a version, which an alias does not tell.
            outside[key] = registered[reference].name
        else:
            outside[key] = fingerprint(reference)
    identity = {
        "configuration": run.stage.identity(job.scaling(run.stage)),
        "seed": job.seed(run),
        "format": run.stage.FORMAT,
        "files": outside,
    }
    plugins = {f"{plugin.package}/{plugin.name}": plugin.digest for plugin in plugins_in(run.stage.config)}
    if plugins:
        identity["plugins"] = plugins
    digest = stage_hash(identity, hashes)
    for other in earlier.values():
        if other.hash == digest and job.runs[other.name].base == run.base:
            raise UserError(f"matrix makes {other.name} and {run.name}, which give the same result; remove one value")
    own = StageRecord(run.name, digest, job_folder(job) / f"{run.base}-{digest[:8]}")
    return _made_elsewhere(job, own) or own


def _made_elsewhere(job: Job, own: StageRecord) -> StageRecord | None:
    """The record of the same work in a folder that the job may reuse, None where it is its own to do."""
    if not job.config.reuse or own.finished:
        return None
    for folder in job.config.reuse:
        other = replace(own, output=_absolute(folder) / own.output.name)
        if other.finished and other.read()["hash"] == own.hash:
            return other
    return None


def fingerprint(reference: str) -> str | None:
    """What identifies the content of a folder outside the job: a corpus's hash, or names, sizes and times of files.

    None for what is neither: a name or hash in the configuration identifies it.
    """
    if not reference or not (is_in_store(reference) or Path(reference).is_dir()):
        return None
    corpus = Folder(reference)
    manifests = [f"{part}/{MANIFEST}" for part in (TRAIN, VALIDATION)]
    if corpus.exists(manifests[0]):
        content = [corpus.read_bytes(name).decode() for name in manifests if corpus.exists(name)]
    else:
        try:
            content = storage_at(local_path(reference)).contents()
        except PermissionError as error:
            raise UserError(f"{reference} holds {error.filename}, which may not be read; name another folder") from None
    return hashlib.sha256("\n".join(content).encode()).hexdigest()[:16]
