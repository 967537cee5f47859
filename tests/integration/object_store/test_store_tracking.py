"""Runs in MLflow that a machine continues for another one, without a database server."""

from pathlib import Path
from typing import Any

import pytest

from raydistill.tracking.store import Store
from raydistill.tracking.writer import MlflowWriter


def started(root: Path, machine: str, place: str | None, **changes: Any) -> str:
    """The id of the run that a job's start on a machine of its own gets."""
    (root / machine).mkdir(exist_ok=True)
    store = Store(f"sqlite:///{root / 'mlflow.db'}", (root / "artifacts").as_uri(), "toy", place)
    record = {"op": "start_run", "key": "toy/student-1234", "name": "student", "parent": None, "tags": {}}
    record |= {"resume": True, "token": f"{machine}{place}", "time": 1, **changes}
    return str(MlflowWriter(store, root / machine / "runs.json").deliver(record))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("tracking")
    return root, started(root, "one", "s3://bucket/runs")


def test_another_machine_continues_the_run_of_the_same_storage(first: tuple[Path, str]) -> None:
    root, run = first
    assert started(root, "two", "s3://bucket/runs") == run


def test_the_same_job_on_another_storage_has_a_run_of_its_own(first: tuple[Path, str]) -> None:
    root, run = first
    assert started(root, "three", "s3://bucket/other") != run
    assert started(root, "four", None) != run


def test_a_start_that_continues_nothing_has_a_run_of_its_own(first: tuple[Path, str]) -> None:
    root, run = first
    assert started(root, "five", "s3://bucket/runs", resume=False) != run
