"""Batches that a thread builds are those of the plan, in order; faults come out; closing ends the thread."""

import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from raydistill.data import stream, stream_here
from raydistill.data.plan import micro_batches
from raydistill.data.row_reader import MicroBatchRequest
from raydistill.data.stream import BatchBuilder, FeedSpec
from raydistill.data.stream_here import feed_here
from toys.corpus import random_rows, write_corpus

METHOD = {"name": "finetune"}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> FeedSpec:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, random_rows(90))
    return FeedSpec.make(str(folder), {"name": "mlm"}, METHOD, seed=3, batch_size=11, num_micro_batches=3)


def feed_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "feed"]


def test_batches_are_those_of_the_plan_over_two_epochs(spec: FeedSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    # So that there are several work items, which a step must not depend on.
    monkeypatch.setattr("raydistill.data.stream._ROWS_PER_ITEM", 30)
    builder = BatchBuilder(spec)
    found = list(feed_here(spec, rank=0, world_size=1, start_step=2, stop_step=13))
    assert len(found) == 11
    for step, batches in enumerate(found, 2):
        rows = micro_batches(builder.plan.rows(step), rank=0, world_size=1, num_micro_batches=3)
        for number, (part, batch) in enumerate(zip(rows, batches, strict=True)):
            [wanted] = builder.batches([MicroBatchRequest(part, builder.plan.epoch_of(step), step, number)])
            assert wanted.columns.keys() == batch.columns.keys()
            assert all(torch.equal(batch[name], column) for name, column in wanted.columns.items())


def test_closing_the_feed_ends_its_thread(spec: FeedSpec) -> None:
    before = feed_threads()
    with closing(feed_here(spec, rank=0, world_size=1, stop_step=80)) as steps:
        next(steps)
        assert len(feed_threads()) == len(before) + 1
    assert feed_threads() == before


def test_a_fault_of_building_is_raised_to_the_consumer(spec: FeedSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise ValueError("a damaged shard")

    monkeypatch.setattr(stream_here, "steps_of", failing)
    with pytest.raises(ValueError, match="a damaged shard"):
        list(feed_here(spec, rank=0, world_size=1, stop_step=3))


def test_micro_batches_without_rows_are_refused(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", random_rows(5))
    spec = FeedSpec.make(str(tmp_path / "corpus"), {"name": "mlm"}, METHOD, seed=3, batch_size=2, num_micro_batches=3)
    with pytest.raises(ValueError, match="raise micro_batch_size"):
        list(feed_here(spec, rank=0, world_size=1, stop_step=1))


def test_a_worker_that_is_alone_is_given_its_batches_without_bytes_in_between(
    spec: FeedSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> Any:
        raise AssertionError("batches were serialized")

    for name in ("pack", "unpack"):
        monkeypatch.setattr(stream, name, refused)
    assert len(list(feed_here(spec, rank=0, world_size=1, stop_step=3))) == 3
    with pytest.raises(AssertionError, match="batches were serialized"):
        list(stream._packed_steps({"start": 0, "stop": 1}, spec=spec, rank=0, world_size=1))
