"""How batches are built from rows; through Ray Data they are tested in tests/integration/data/test_stream.py."""

import numpy as np
import pytest
import torch

from raydistill.batch import PARTNER, Batch
from raydistill.data import stream
from raydistill.data.packing import unpack
from raydistill.data.plan import bucket_upper_edge, micro_batches
from raydistill.data.row_reader import MicroBatchRequest
from raydistill.data.stream import BatchBuilder, FeedSpec, _packed_steps, feed, steps_of, validation_batches
from raydistill.methods import causal
from raydistill.methods._base import Execution, Requirements
from toys.corpus import random_rows, write_corpus

CAUSAL = {"name": "causal", "mapping": "middle_6"}


@pytest.fixture(scope="module")
def spec(tmp_path_factory) -> FeedSpec:
    corpus = write_corpus(tmp_path_factory.mktemp("stream") / "corpus", random_rows(330))
    return FeedSpec.make(corpus.uri, {"name": "mlm"}, CAUSAL, seed=5, batch_size=32, num_micro_batches=3)


@pytest.fixture(scope="module")
def builder(spec) -> BatchBuilder:
    return BatchBuilder(spec)


def equal(first: Batch, second: Batch) -> bool:
    assert first.columns.keys() == second.columns.keys()
    same = all(torch.equal(first[name], second[name]) for name in first.columns)
    return same and all(getattr(first, key) == getattr(second, key) for key in ("seed", "epoch", "step"))


def test_batches_built_together_equal_batches_built_alone(builder):
    wanted = [
        MicroBatchRequest(np.array([5, 300, 7]), 0, 3),
        MicroBatchRequest(np.array([7, 7, 12, 100]), 1, 40, 2),
        MicroBatchRequest(np.array([0]), 1, 41, 1),
    ]
    together = list(builder.batches(wanted))
    assert [batch.micro_batch for batch in together] == [0, 2, 1]
    alone = [builder.batch(one.rows, epoch=one.epoch, step=one.step) for one in wanted]
    assert {batch.micro_batch for batch in alone} == {0}
    assert all(equal(*pair) for pair in zip(together, alone, strict=True))


def draws_by_row(batches: list[Batch]) -> dict[int, tuple]:
    """What was drawn for each row, as positions inside the row."""
    found = {}
    for batch in batches:
        width, partner_width = batch["input_ids"].shape[1], batch[PARTNER + "input_ids"].shape[1]
        for number, row_id in enumerate(batch["row_id"].tolist()):
            labels = batch["label_index"] // width == number
            spans = batch["interchange_base"] // width == number
            length, partner_length = (int(batch[name][number]) for name in ("lengths", PARTNER + "lengths"))
            found[row_id] = (
                batch["input_ids"][number, :length].tolist(),
                batch["labels"][labels].tolist(),
                int(batch[PARTNER + "row_id"][number]),
                batch[PARTNER + "input_ids"][number, :partner_length].tolist(),
                (batch["interchange_base"][spans] % width).tolist(),
                (batch["interchange_partner"][spans] % partner_width).tolist(),
            )
    return found


@pytest.mark.parametrize(("world_size", "num_micro_batches"), [(1, 4), (2, 1), (4, 3)])
def test_a_rows_masks_partner_and_span_do_not_depend_on_the_division(builder, world_size, num_micro_batches):
    rows = builder.plan.rows(4)
    parts = [
        part
        for rank in range(world_size)
        for part in micro_batches(rows, rank=rank, world_size=world_size, num_micro_batches=num_micro_batches)
    ]
    whole = draws_by_row([builder.batch(rows, epoch=0, step=4)])
    assert len(whole) >= 30
    assert draws_by_row([builder.batch(part, epoch=0, step=4) for part in parts]) == whole


@pytest.mark.parametrize("rank", [0, 1])
def test_the_micro_batches_of_a_ranks_step_are_numbered_from_zero(spec, rank):
    items = [{"start": 3, "stop": 5}, {"start": 5, "stop": 6}]
    tables = [table for item in items for table in _packed_steps(item, spec=spec, rank=rank, world_size=2)]
    found = [(batch.step, batch.micro_batch) for table in tables for batch in unpack(table["batches"][0].as_buffer())]
    assert found == [(step, number) for step in (3, 4, 5) for number in range(3)]


def test_a_long_feed_hands_ray_data_a_few_items_after_the_others(spec, monkeypatch):
    given = []

    def run_here(task, items, schema, **_):
        given.append(len(items))
        for item in items:
            yield from task(item)

    monkeypatch.setattr(stream, "run_tasks", run_here)
    monkeypatch.setattr(stream, "_ITEMS_AT_ONCE", 3)
    monkeypatch.setattr(stream, "_ROWS_PER_ITEM", 64)
    found = list(feed(spec, rank=0, world_size=1, start_step=2, stop_step=24))
    assert given == [3, 3, 3, 3]
    alone = [batches for _, batches in steps_of(spec, 2, 11, rank=0, world_size=1)]
    assert len(found) == 22
    assert all(
        equal(*pair) for ours, others in zip(found, alone, strict=False) for pair in zip(ours, others, strict=True)
    )


def test_validation_batches_have_number_zero(spec):
    batches = list(validation_batches(spec, micro_batch_size=20, num_rows=50))
    assert [batch.micro_batch for batch in batches] == [0, 0, 0]


PARTS = [np.array([5, 300, 7]), np.array([8, 12, 100, 41, 42]), np.array([0])]


def cut_partners(spec) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Lengths of each micro-batch's rows, of their partners and of their partners before any is cut."""
    builder = BatchBuilder(spec)
    found = []
    for batch in builder.batches([MicroBatchRequest(part, 0, 0, number) for number, part in enumerate(PARTS)]):
        whole = builder.corpus.lengths[batch[PARTNER + "row_id"].numpy()]
        found.append((batch["lengths"].numpy(), batch[PARTNER + "lengths"].numpy(), whole))
        longest = int(batch["lengths"].max())
        padded = longest if builder._partner_width == "batch" else int(batch[PARTNER + "lengths"].max())
        assert batch[PARTNER + "input_ids"].shape[1] == padded
    return found


def test_a_partner_is_cut_at_the_upper_edge_of_its_bases_length_bucket(spec):
    cut = 0
    for lengths, partner_lengths, whole in cut_partners(spec):
        assert partner_lengths.tolist() == np.minimum(whole, bucket_upper_edge(lengths)).tolist()
        cut += (partner_lengths < whole).sum()
    assert cut > 0


def test_a_partner_is_cut_at_its_micro_batchs_padded_width_where_the_method_asks_for_it(spec, monkeypatch):
    requirements = Requirements(partners=True, execution=Execution(partner_width="batch", batch_dependent=True))
    monkeypatch.setattr(causal.Method, "requirements", classmethod(lambda cls, config: requirements))
    widths, beyond_bucket = set(), 0
    for lengths, partner_lengths, whole in cut_partners(spec):
        assert partner_lengths.tolist() == np.minimum(whole, lengths.max()).tolist()
        widths.add(int(lengths.max()))
        beyond_bucket += (partner_lengths > bucket_upper_edge(lengths)).sum()
    assert len(widths) == 3
    assert beyond_bucket > 0
