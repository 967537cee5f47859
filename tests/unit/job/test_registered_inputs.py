"""What a job hands to stages that name registered models."""

from pathlib import Path

import pytest

from raydistill.job import record
from raydistill.job.load import Job, load_job
from raydistill.job.plans import Plans
from raydistill.job.run import JobResult, Runner
from raydistill.stages._base import Input
from toys.tracker import MemoryTracker

REFERENCE = "models:/student@candidate"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """URIs of the registries that were asked; each has the model in the folder ``student``."""
    found: list[str] = []

    def checkpoint_folder(reference: str, cache: Path, *, registry: str) -> Path:
        assert reference == REFERENCE
        found.append(registry)
        return tmp_path / "student"

    monkeypatch.setattr(record, "checkpoint_folder", checkpoint_folder)
    return found


def job(storage: Path, **tracking: str) -> Job:
    stage = {"kind": "evaluate", "corpus": str(storage / "corpus"), "models": {"student": REFERENCE}}
    return load_job({"name": "toy", "storage": str(storage), "tracking": tracking, "stages": {"evaluate": stage}})


def test_a_registered_model_comes_from_the_store_of_the_job(asked: list[str], tmp_path: Path) -> None:
    for tracking in ({}, {"uri": "http://mlflow.example:5000"}):
        loaded = job(tmp_path, **tracking)
        record.registered_checkpoints(loaded, loaded.runs["evaluate"])
    assert asked == [f"sqlite:///{tmp_path / 'mlflow.db'}", "http://mlflow.example:5000"]


@pytest.mark.usefixtures("asked")
def test_a_preflight_and_a_run_get_the_folder_under_the_name_that_the_stage_uses(tmp_path: Path) -> None:
    loaded = job(tmp_path)
    run = loaded.runs["evaluate"]
    assert Plans(loaded, record.stage_records(loaded)).inputs(run) == {REFERENCE: Input(folder=tmp_path / "student")}
    runner = Runner(loaded, record.stage_records(loaded), MemoryTracker(), JobResult(tmp_path / "toy"), echo=print)
    assert runner._context(run, "key", 1).inputs == {REFERENCE: Input(folder=tmp_path / "student")}
