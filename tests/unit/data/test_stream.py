"""How batches are built from rows; through Ray Data they are tested in tests/integration/data/test_stream.py."""

import numpy as np
import pytest
import torch

from raydistill.batch import PARTNER, Batch
from raydistill.data.plan import micro_batches
from raydistill.data.stream import BatchBuilder, FeedSpec
from toy_corpus import random_rows, write_corpus

CAUSAL = {"name": "causal", "mapping": "middle_6"}


@pytest.fixture(scope="module")
def builder(tmp_path_factory) -> BatchBuilder:
    corpus = write_corpus(tmp_path_factory.mktemp("stream") / "corpus", random_rows(330))
    return BatchBuilder(FeedSpec.make(corpus.uri, {"name": "mlm"}, CAUSAL, seed=5, batch_size=32))


def equal(first: Batch, second: Batch) -> bool:
    assert first.columns.keys() == second.columns.keys()
    same = all(torch.equal(first[name], second[name]) for name in first.columns)
    return same and (first.seed, first.epoch, first.step) == (second.seed, second.epoch, second.step)


def test_batches_built_together_equal_batches_built_alone(builder):
    wanted = [(np.array([5, 300, 7]), 0, 3), (np.array([7, 7, 12, 100]), 1, 40), (np.array([0]), 1, 41)]
    together = list(builder.batches(wanted))
    alone = [builder.batch(rows, epoch=epoch, step=step) for rows, epoch, step in wanted]
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
