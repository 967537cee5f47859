"""Steps on their way to a device: their order, their values and what goes wrong while they are read."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from raydistill.batch import collate
from raydistill.training.ahead import Ahead, CudaLane, lane_of

CPU = torch.device("cpu")


def batch(number):
    return collate([np.arange(3) + number, np.arange(5)], [number, number + 1], pad_id=0, step=number)


def reading(seen, count, *, error=None):
    """Steps of one batch each, which tell when they are read."""
    for number in range(count):
        seen.append(f"read {number}")
        yield [batch(number)]
    if error is not None:
        raise error


class Recorder:
    """A lane that tells what it is asked for."""

    def __init__(self, seen):
        self.seen = seen

    def copy(self, step):
        self.seen.append(f"copy {step[0].step}")
        return step

    def join(self, step):
        self.seen.append(f"join {step[0].step}")


def test_the_next_step_is_read_and_copied_when_the_device_has_work_and_joined_when_it_is_taken():
    seen = []
    ahead = Ahead(reading(seen, 3), CPU, Recorder(seen))
    for number in range(3):
        (taken,) = ahead.take()
        seen.append(f"compute {taken.step}")
        assert taken.step == number
        torch.testing.assert_close(dict(taken.columns), dict(batch(number).columns))
        ahead.prepare()
        ahead.prepare()
    assert seen == [
        *("read 0", "copy 0", "join 0", "compute 0", "read 1", "copy 1"),
        *("join 1", "compute 1", "read 2", "copy 2"),
        *("join 2", "compute 2"),
    ]
    with pytest.raises(StopIteration):
        ahead.take()


def test_steps_that_are_not_prepared_are_copied_when_they_are_taken():
    seen = []
    ahead = Ahead(reading(seen, 2), CPU, Recorder(seen))
    assert [ahead.take()[0].step, ahead.take()[0].step] == [0, 1]
    assert seen == ["read 0", "copy 0", "join 0", "read 1", "copy 1", "join 1"]


def test_without_a_lane_nothing_is_read_before_it_is_taken():
    seen = []
    ahead = Ahead(reading(seen, 2), torch.device("meta"), None)
    (taken,) = ahead.take()
    assert {column.device.type for column in taken.columns.values()} == {"meta"}
    ahead.prepare()
    assert seen == ["read 0"]


@pytest.mark.parametrize("has_lane", [False, True])
def test_what_goes_wrong_while_a_step_is_read_is_raised_after_the_steps_before(has_lane):
    seen = []
    steps = reading(seen, 1, error=ValueError("a damaged shard"))
    ahead = Ahead(steps, CPU, Recorder(seen) if has_lane else None)
    assert ahead.take()[0].step == 0
    with pytest.raises(ValueError, match="a damaged shard"):
        ahead.take()


class FakeStream:
    def __init__(self, name, seen):
        self.name, self.seen = name, seen

    def wait_stream(self, other):
        self.seen.append(f"{self.name} waits for {other.name}")


def test_a_gpus_batches_are_copied_from_pinned_memory_on_a_stream_that_its_own_waits_for(monkeypatch):
    seen, streams = [], []

    @contextmanager
    def inside(stream):
        streams.append(stream.name)
        yield
        streams.pop()

    def to(column, device, non_blocking):
        assert column.pinned
        assert non_blocking
        seen.append(f"copied on {streams[-1]}")
        moved = column.clone()
        moved.moved = True
        return moved

    def pin(column):
        pinned = column.clone()
        pinned.pinned = True
        return pinned

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: FakeStream("side", seen))
    monkeypatch.setattr(torch.cuda, "stream", inside)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: FakeStream("main", seen))
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda column, stream: seen.append(f"kept for {stream.name}"))

    lane = lane_of(torch.device("cuda", 0))
    (copied,) = lane.copy([batch(4)])
    num_columns = len(copied.columns)
    assert all(column.moved for column in copied.columns.values())
    assert seen == ["copied on side"] * num_columns
    lane.join([copied])
    assert seen[num_columns:] == ["main waits for side"] + ["kept for main"] * num_columns
    assert not streams
    assert (copied.step, copied.first_row) == (4, 4)
    monkeypatch.undo()
    torch.testing.assert_close(dict(copied.columns), dict(batch(4).columns))
    assert isinstance(lane, CudaLane)


def test_a_cpu_has_no_lane():
    assert lane_of(CPU) is None
