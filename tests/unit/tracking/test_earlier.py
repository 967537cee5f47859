"""Records in a spool of older releases, which all jobs of an experiment shared."""

import json
from pathlib import Path

import pytest

from raydistill.tracking import delivery as delivery_module
from raydistill.tracking.delivery import RUNS, Delivery
from raydistill.tracking.earlier import EarlierRecords
from raydistill.tracking.spool import Spool, SpoolInUseError
from raydistill.tracking.store import Store, spool_folder, write_store
from raydistill.tracking.sync import sync
from toys.writer import ScriptedWriter

STORE = Store("http://mlflow.example", None, "shared")


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> ScriptedWriter:
    writer = ScriptedWriter()
    monkeypatch.setattr(delivery_module, "MlflowWriter", lambda store, runs_file: writer)
    return writer


def leave(storage: Path, store: Store = STORE, numbers: tuple[int, ...] = (1, 2)) -> Path:
    """What an older release left: records that wait, of a store, and the runs that it started."""
    folder = storage / "tracking" / "shared"
    spool = Spool(folder)
    for number in numbers:
        spool.append({"op": "set_tags", "key": "toy/job", "number": number})
    spool.close()
    write_store(folder, store)
    (folder / RUNS).write_text(json.dumps({"toy/job": "run-1"}))
    return folder


def own(storage: Path, job: str = "toy") -> Delivery:
    delivery = Delivery(STORE, spool_folder(storage, "shared", job), lock_timeout_s=0.0)
    delivery.remember_store()
    return delivery


def test_two_jobs_of_one_experiment_have_spools_of_their_own(tmp_path: Path) -> None:
    folders = {spool_folder(tmp_path, "shared", job) for job in ("a", "b", "shared")}
    assert {folder.name for folder in folders} == {"shared@a", "shared@b", "shared"}
    assert spool_folder(tmp_path, "shared@a", "shared@a") not in folders


def test_earlier_records_are_delivered_first_and_their_runs_are_known(tmp_path: Path, writer: ScriptedWriter) -> None:
    leave(tmp_path)
    delivery = own(tmp_path)
    delivery.append({"op": "set_tags", "key": "toy/job", "number": 3})
    earlier = EarlierRecords(delivery)
    for _ in range(2):
        earlier.deliver()
    delivery.send_next()
    assert writer.taken == [1, 2, 3]
    assert writer.known == {"toy/job": "run-1"}


def test_a_store_that_is_away_keeps_them_for_another_try(tmp_path: Path, writer: ScriptedWriter) -> None:
    leave(tmp_path)
    earlier = EarlierRecords(own(tmp_path))
    writer.num_failures = 1
    with pytest.raises(ConnectionError):
        earlier.deliver()
    earlier.deliver()
    assert writer.taken == [1, 2]


def test_of_two_jobs_one_delivers_them_and_the_other_goes_on_then(tmp_path: Path, writer: ScriptedWriter) -> None:
    folder = leave(tmp_path)
    first, second = EarlierRecords(own(tmp_path, "a")), EarlierRecords(own(tmp_path, "b"))
    other = Spool(folder)
    with pytest.raises(SpoolInUseError):
        second.deliver()
    other.close()
    first.deliver()
    # A job of the experiment's name has that spool for its own; what it appends now is not waited for.
    with_it = Spool(folder)
    with_it.append({"op": "set_tags", "key": "shared/job", "number": 9})
    second.deliver()
    with_it.close()
    assert writer.taken == [1, 2]


def test_records_for_another_store_stay_where_they_are(tmp_path: Path, writer: ScriptedWriter) -> None:
    leave(tmp_path, Store("http://another.example", None, "shared"))
    EarlierRecords(own(tmp_path)).deliver()
    assert (writer.taken, writer.known) == ([], {})


def test_a_job_that_has_started_runs_of_its_own_looks_no_more(tmp_path: Path, writer: ScriptedWriter) -> None:
    leave(tmp_path)
    delivery = own(tmp_path)
    (delivery.spool.folder / RUNS).write_text("{}")
    EarlierRecords(delivery).deliver()
    assert writer.taken == []


def test_a_delivery_without_the_job_continues_the_earlier_runs_too(tmp_path: Path, writer: ScriptedWriter) -> None:
    leave(tmp_path)
    delivery = own(tmp_path)
    delivery.append({"op": "set_tags", "key": "toy/job", "number": 3})
    delivery.close()
    assert sync(delivery.spool.folder).error is None
    assert (writer.taken, writer.known) == ([1, 2, 3], {"toy/job": "run-1"})
