import time
from types import SimpleNamespace

import pytest
import ray

from raydistill.tracking import actor as actor_module
from raydistill.tracking import delivery as delivery_module
from raydistill.tracking import tracker as tracker_module
from raydistill.tracking.actor import TrackerActor
from raydistill.tracking.delivery import Delivery, reason
from raydistill.tracking.spool import Spool
from raydistill.tracking.store import Store
from raydistill.tracking.tracker import RayTracker
from toys.writer import ScriptedWriter

STORE = Store("nowhere", None, "experiment")


def record(number: int, op: str = "set_tags", key: str = "job") -> dict:
    return {"op": op, "key": key, "number": number}


def wait_for(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def start(monkeypatch, tmp_path):
    """A function that starts an actor's object over a scripted writer, in this process."""
    monkeypatch.setattr(actor_module, "_FIRST_RETRY_S", 0.01)

    def start_with(writer: ScriptedWriter) -> TrackerActor:
        monkeypatch.setattr(delivery_module, "MlflowWriter", lambda store, runs_file: writer)
        return TrackerActor(STORE, str(tmp_path))

    return start_with


def test_records_arrive_in_order_after_failures(start):
    writer = ScriptedWriter(num_failures=3)
    actor = start(writer)
    for number in range(6):
        actor.append(record(number))
    wait_for(lambda: actor.status()["waiting"] == 0)
    assert writer.taken == [0, 1, 2, 3, 4, 5]


def test_append_does_not_wait_for_a_store_that_is_away(start):
    actor = start(ScriptedWriter(num_failures=10**6))
    begin = time.monotonic()
    assert [actor.append(record(number)) for number in range(100)] == list(range(1, 101))
    assert time.monotonic() - begin < 5
    wait_for(lambda: actor.status()["error"] is not None)
    assert actor.status()["waiting"] == 100
    assert "the server is away" in actor.outcome(1).error
    assert not actor.outcome(1).done


def test_a_refused_record_does_not_hold_up_the_others(start):
    writer = ScriptedWriter(refused=(1,))
    actor = start(writer)
    for number in range(3):
        actor.append(record(number))
    wait_for(lambda: actor.status()["waiting"] == 0)
    assert writer.taken == [0, 2]
    assert actor.status()["rejected"] == 1
    assert actor.outcome(2).error == "ValueError: never"


def test_the_value_of_a_started_run_can_be_asked_for(start):
    actor = start(ScriptedWriter())
    sequence = actor.append(record(7, op="start_run"))
    wait_for(lambda: actor.outcome(sequence).done)
    assert actor.outcome(sequence).value == "run 7"


def test_runs_that_nobody_ended_end_as_killed_and_late_ones_do_not_start(start):
    writer = ScriptedWriter()
    actor = start(writer)
    for number, key in enumerate(("ended", "running", "again")):
        actor.append(record(number, op="start_run", key=key))
    actor.append({"op": "end_run", "key": "ended", "status": "FINISHED"})
    actor.end_runs()
    last = actor.last()
    assert actor.append(record(9, op="start_run", key="late")) == last == 6
    wait_for(lambda: actor.status()["waiting"] == 0)
    assert writer.ended == [("ended", "FINISHED"), ("again", "KILLED"), ("running", "KILLED")]
    assert writer.taken == [0, 1, 2]


def test_metrics_that_wait_in_a_row_go_together_and_in_order(tmp_path, start):
    spool = Spool(tmp_path)
    for number in range(6):
        spool.append(record(number, op="log_metrics", key="a" if number < 4 else "b"))
    spool.close()
    writer = ScriptedWriter()
    actor = start(writer)
    wait_for(lambda: actor.status()["waiting"] == 0)
    assert writer.taken == [0, 1, 2, 3, 4, 5]
    assert writer.requests == 2


def test_one_refused_metric_does_not_take_its_neighbours_with_it(tmp_path, start):
    spool = Spool(tmp_path)
    for number in range(5):
        spool.append(record(number, op="log_metrics"))
    spool.close()
    writer = ScriptedWriter(refused=(2,))
    actor = start(writer)
    wait_for(lambda: actor.status()["waiting"] == 0)
    assert writer.taken == [0, 1, 3, 4]
    assert actor.status()["rejected"] == 1


def test_a_restarted_actor_still_knows_what_was_answered(start):
    writer = ScriptedWriter(refused=(2,))
    actor = start(writer)
    first, second = actor.append(record(1, op="start_run")), actor.append(record(2))
    wait_for(lambda: actor.status()["waiting"] == 0)
    actor.close()
    again = start(writer)
    assert again.outcome(first).value == "run 1"
    assert again.outcome(second).error == "ValueError: never"
    assert again.append(record(3)) == 3


def test_a_disk_that_takes_no_note_does_not_hold_up_delivery(tmp_path, monkeypatch, caplog):
    writer = ScriptedWriter()
    monkeypatch.setattr(delivery_module, "MlflowWriter", lambda store, runs_file: writer)
    delivery = Delivery(STORE, tmp_path)

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("raydistill.tracking.spool.write_json", full)
    for number in range(3):
        delivery.append(record(number))
        delivery.send_next()
    assert writer.taken == [0, 1, 2]
    assert [entry.name for entry in caplog.records].count("raydistill.tracking.delivery") == 1


def test_the_systems_own_words_tell_why_a_store_is_away():
    outer = RuntimeError("API request failed with a long story")
    outer.__context__ = ConnectionRefusedError(111, "Connection refused")
    assert reason(outer) == "Connection refused"


def test_a_reason_does_not_tell_a_password():
    error = RuntimeError("postgresql://me:hidden@host/runs is away")
    assert (
        reason(error, uri="postgresql://me:hidden@host/runs") == "RuntimeError: postgresql://me:***@host/runs is away"
    )


def test_a_spool_that_cannot_be_opened_is_told_and_raises_nothing_at_the_start(tmp_path):
    (tmp_path / "file").touch()
    actor = TrackerActor(STORE, str(tmp_path / "file" / "spool"))
    assert "Not a directory" in actor.status()["failure"]
    with pytest.raises(RuntimeError, match="Not a directory"):
        actor.append(record(1))


def test_a_tracker_whose_store_refused_a_record_knows_after_its_last_flush_which_and_why(start, monkeypatch, tmp_path):
    actor = start(ScriptedWriter(refused=(1,)))

    def remote(method):
        call = getattr(actor, method)
        return SimpleNamespace(remote=lambda *arguments: call(*arguments))

    local = SimpleNamespace(**{method: remote(method) for method in ("append", "last", "outcome", "status")})
    fake = SimpleNamespace(get=lambda value, **_: value, wait=lambda sent, **_: (sent, []), exceptions=ray.exceptions)
    monkeypatch.setattr(tracker_module, "ray", fake)
    tracker = RayTracker(local, uri="memory", folder=str(tmp_path))
    tracker._send(record(0))
    assert tracker.flush()
    assert tracker.lost == ""
    tracker._send(record(1))
    tracker._send(record(2))
    assert not tracker.flush()
    assert tracker.lost == f"MLflow refused a record, kept in {tmp_path}/rejected.jsonl: ValueError: never"
