import pytest
import torch

from raydistill.batch import collate
from raydistill.data.packing import pack, unpack
from toys.corpus import random_rows


def test_batches_survive_packing():
    batches = [
        collate(random_rows(3, seed=n), [n + 5, 1, 2], pad_id=0, seed=7, epoch=2, step=n, micro_batch=n + 3)
        for n in range(3)
    ]
    unpacked = unpack(pack(batches))
    for before, after in zip(batches, unpacked, strict=True):
        for key in ("seed", "epoch", "step", "micro_batch", "first_row"):
            assert getattr(after, key) == getattr(before, key)
        assert list(after.columns) == list(before.columns)
        for name, column in before.columns.items():
            assert after[name].dtype == column.dtype
            assert torch.equal(after[name], column)


def test_empty_columns_keep_their_shape():
    batch = collate(random_rows(2), [0, 1], pad_id=0).with_columns(labels=torch.empty(0, dtype=torch.int64))
    (unpacked,) = unpack(pack([batch]))
    assert unpacked["labels"].shape == (0,)


def test_unpacked_columns_can_be_written():
    (batch,) = unpack(pack([collate(random_rows(2), [0, 1], pad_id=0)]))
    batch["input_ids"][0, 0] = 9
    assert batch["input_ids"][0, 0] == 9


@pytest.mark.parametrize("values", [[0, 2**16 - 1], [0, 2**16], [-1, 3], [2**31, 0], [-(2**40), 2**62], [7, 8]])
def test_integers_of_any_size_survive(values):
    batch = collate(random_rows(2), [0, 1], pad_id=0).with_columns(labels=torch.tensor(values))
    (unpacked,) = unpack(pack([batch]))
    assert unpacked["labels"].dtype == torch.int64
    assert unpacked["labels"].tolist() == values


def test_ids_and_indices_of_a_batch_take_two_bytes_each():
    batch = collate(random_rows(100), range(100), pad_id=0)
    cells, tokens = batch["input_ids"].numel(), len(batch["token_index"])
    # Ids, the mask of one byte, indices of the tokens; lengths, row ids, padding and header.
    assert len(pack([batch])) < 2 * cells + cells + 2 * tokens + 4 * 100 + 1000
