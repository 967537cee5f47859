import torch

from raydistill.batch import collate
from raydistill.data.packing import pack, unpack
from toy_corpus import random_rows


def test_batches_survive_packing():
    batches = [collate(random_rows(3, seed=n), [n, 1, 2], pad_id=0, seed=7, epoch=2, step=n) for n in range(3)]
    unpacked = unpack(pack(batches))
    for before, after in zip(batches, unpacked, strict=True):
        assert (after.seed, after.epoch, after.step) == (before.seed, before.epoch, before.step)
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
