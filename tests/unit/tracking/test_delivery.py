import time

import pytest

from raydistill.tracking import actor as actor_module
from raydistill.tracking.actor import TrackerActor
from raydistill.tracking.spool import Spool
from raydistill.tracking.writer import Store

STORE = Store("nowhere", None, "experiment")


class ScriptedWriter:
    """Stands in for MLflow: fails as often as told, refuses some numbers, and notes what it took."""

    def __init__(self, *, num_failures: int = 0, refused: tuple[int, ...] = ()) -> None:
        self.num_failures = num_failures
        self.refused = refused
        self.taken: list[int] = []
        self.requests = 0

    def deliver(self, record):
        self.requests += 1
        if self.num_failures > 0:
            self.num_failures -= 1
            raise ConnectionError("the server is away")
        if record["number"] in self.refused:
            raise ValueError("never")
        self.taken.append(record["number"])
        return f"run {record['number']}"

    def deliver_metrics(self, records):
        if any(record["number"] in self.refused for record in records):
            raise ValueError("never")
        self.requests += 1
        self.taken += [record["number"] for record in records]

    def is_permanent(self, error):
        return isinstance(error, ValueError)


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
        monkeypatch.setattr(actor_module, "MlflowWriter", lambda store, runs_file: writer)
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
