"""What a job leaves beside its stages' outputs: their hashes, whether they finished, and their summaries."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydistill import __version__
from raydistill.job.load import Job
from raydistill.json_file import write_json
from raydistill.stages._base import Stage, stage_hash
from raydistill.stages._checkpoints import fingerprint

_RECORD = "stage.json"


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
        return (self.output / _RECORD).is_file()

    def read(self) -> dict[str, Any]:
        """The stored record: ``hash``, ``summary``, ``seconds``, ``finished_at``."""
        stored: dict[str, Any] = json.loads((self.output / _RECORD).read_text(encoding="utf-8"))
        return stored

    def write(self, summary: Mapping[str, Any], *, seconds: float) -> None:
        """Mark the stage finished, in one rename."""
        content = {
            "hash": self.hash,
            "finished_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "seconds": round(seconds, 3),
            "summary": dict(summary),
        }
        write_json(self.output / _RECORD, content, indent=2)


def job_folder(job: Job) -> Path:
    """The folder of a job's outputs, under its storage, absolute."""
    return (Path(job.config.storage).expanduser() / job.name).resolve()


def stage_records(job: Job) -> dict[str, StageRecord]:
    """Every stage's record by name; hashes cover configuration, seed, inputs' hashes and local model files."""
    records: dict[str, StageRecord] = {}
    for name, stage in job.stages.items():
        records[name] = stage_record(job, stage, records)
    return records


def stage_record(job: Job, stage: Stage, earlier: Mapping[str, StageRecord]) -> StageRecord:
    """The record of one stage, given those before it; raises ValueError when a source it reads is not there."""
    inputs = {key: earlier[source].hash for key, source in job.inputs(stage).items()}
    digest = stage_hash(_identity(job, stage), inputs)
    return StageRecord(stage.name, digest, job_folder(job) / f"{stage.name}-{digest[:8]}")


def _identity(job: Job, stage: Stage) -> dict[str, Any]:
    return {
        "configuration": stage.identity(job.scaling(stage)),
        "seed": job.config.seed,
        "version": __version__,
        "files": [fingerprint(reference) for reference in stage.checkpoints()],
    }
