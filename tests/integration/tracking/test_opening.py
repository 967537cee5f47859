"""Processes that open a store at the same moment, which MLflow's own code does not guard."""

import multiprocessing
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import pytest

from raydistill.registry.client import Registry
from raydistill.tracking.opening import open_client
from raydistill.tracking.store import Store
from raydistill.tracking.writer import MlflowWriter
from toys.holder import held_elsewhere

NUM_PAIRS = 20


@pytest.fixture
def quick_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: most of the time to make a database is the disk's."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with TemporaryDirectory(dir=memory, prefix="raydistill-") as folder:
        yield Path(folder)


def open_in_lockstep(number: int, barrier: Any, answers: Any, uris: list[str], folder: str) -> None:
    """Open one store after another, each at the same instant as the other process, and start a run in it."""
    for place, uri in enumerate(uris):
        barrier.wait()
        try:
            writer = MlflowWriter(Store(uri, None, "experiment"), Path(folder) / f"{place}-{number}.json")
            record = {"op": "start_run", "key": "job", "time": 1, "name": f"job {number}", "parent": None, "tags": {}}
            writer.deliver({**record, "resume": False, "token": f"token {number}"})
            answers.put("")
        except Exception as error:
            answers.put(f"store {place}, process {number}: {type(error).__name__}: {error}")


def failures_of_pairs(uris: list[str], folder: Path) -> list[str]:
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(2), context.Queue()
    pair = [
        context.Process(target=open_in_lockstep, args=(number, barrier, answers, uris, str(folder)), daemon=True)
        for number in range(2)
    ]
    for process in pair:
        process.start()
    told = [answers.get(timeout=300) for _ in range(2 * len(uris))]
    for process in pair:
        process.join(60)
    return [answer for answer in told if answer]


def runs_of(uri: str) -> set[str]:
    client = mlflow.MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name("experiment").experiment_id])
    return {run.info.run_name for run in found}


@pytest.mark.slow
def test_twenty_pairs_of_processes_open_a_fresh_store_at_once_and_all_record(quick_folder: Path) -> None:
    uris = [f"sqlite:///{quick_folder}/{number}/mlflow.db" for number in range(NUM_PAIRS)]
    assert failures_of_pairs(uris, quick_folder) == []
    assert [runs_of(uri) for uri in uris] == [{"job 0", "job 1"}] * NUM_PAIRS


def test_a_store_that_another_process_creates_is_waited_for(tmp_path: Path) -> None:
    uri, opened = f"sqlite:///{tmp_path}/mlflow.db", threading.Event()

    def open_it() -> None:
        open_client(uri)
        opened.set()

    with held_elsewhere(tmp_path / ".mlflow.db.lock"):
        threading.Thread(target=open_it, daemon=True).start()
        time.sleep(1.0)
        assert not opened.is_set()
        assert not (tmp_path / "mlflow.db").exists()
    assert opened.wait(120)


def test_a_store_that_was_left_half_made_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE _alembic_tmp_experiments (experiment_id INTEGER)")
    with pytest.raises(
        ValueError, match=r"mlflow\.db was left half made.*: move it away and run the same command again"
    ):
        MlflowWriter(Store(f"sqlite:///{path}", None, "experiment"), tmp_path / "runs.json")
    # A command that only reads meets the same.
    with pytest.raises(ValueError, match="move it away"):
        Registry(f"sqlite:///{path}")
