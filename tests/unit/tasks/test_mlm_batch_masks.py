"""Targets drawn once for a whole micro-batch, as published."""

import itertools
import math

import numpy as np
import pytest
import torch

from raydistill.batch import Batch, add_partners, collate
from raydistill.tasks._base import Encoding
from raydistill.tasks.mlm import Config, Task

VOCABULARY = 50
SPECIAL = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}


def make_task(counts=None, **options) -> Task:
    counts = np.full(VOCABULARY, 10) if counts is None else counts
    encoding = Encoding(VOCABULARY, SPECIAL, tuple(SPECIAL.values()), 512, counts)
    return Task(Config(**{"sampling": "batch", **options}), encoding)


def rows_of(num_rows: int, length: int, *, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [np.array([2, *generator.integers(5, VOCABULARY, length - 2), 3]) for _ in range(num_rows)]


def batch_of(rows, row_ids=None, *, seed: int = 1, epoch: int = 0, step: int = 0) -> Batch:
    row_ids = range(len(rows)) if row_ids is None else row_ids
    return collate(rows, list(row_ids), pad_id=0, seed=seed, epoch=epoch, step=step)


def targets(batch: Batch) -> dict[int, list[int]]:
    """Places of the targets of each row, by its id."""
    rows, places = np.divmod(batch["label_index"].numpy(), batch["input_ids"].shape[1])
    return {int(row_id): places[rows == number].tolist() for number, row_id in enumerate(batch["row_id"])}


def test_rows_alone_are_the_default_and_only_the_draw_of_a_batch_couples_rows():
    assert Config().sampling == "row"
    assert not Task.batch_dependent(Config())
    assert Task.batch_dependent(Config(sampling="batch"))


@pytest.mark.parametrize(("lengths", "expected"), [((20, 20), 6), ((12, 13, 17), 7), ((41,), 7), ((100, 40), 21)])
def test_a_micro_batch_has_the_ceiling_of_its_share_of_targets(lengths, expected):
    rows = [rows_of(1, length, seed=length)[0] for length in lengths]
    for seed in range(30):
        batch = make_task().prepare_batch(batch_of(rows, seed=seed))
        assert len(batch["labels"]) == len(batch["label_index"]) == expected == math.ceil(0.15 * sum(lengths))


def test_labels_are_the_original_ids_at_ascending_positions_and_only_there_ids_change():
    plain = batch_of(rows_of(20, 30))
    batch = make_task().prepare_batch(plain)
    index = batch["label_index"]
    assert index.dtype == torch.int64
    assert (index.diff() > 0).all()
    assert torch.equal(batch["labels"], plain["input_ids"].flatten()[index])
    changed = torch.nonzero((batch["input_ids"] != plain["input_ids"]).flatten()).flatten()
    assert len(changed) > 0.7 * len(index)
    assert set(changed.tolist()) <= set(index.tolist())


def test_special_tokens_and_padding_are_never_targets():
    batch = make_task(mask_probability=0.99).prepare_batch(batch_of([*rows_of(40, 30), *rows_of(40, 12, seed=1)]))
    # More are asked for than there are: all others are taken.
    assert len(batch["labels"]) == 40 * 28 + 40 * 10
    assert set(batch["labels"].tolist()).isdisjoint(SPECIAL.values())
    assert batch["attention_mask"].flatten()[batch["label_index"]].all()


def test_a_batch_of_special_tokens_alone_has_no_target():
    batch = make_task().prepare_batch(batch_of([np.array([2, 1, 1, 3])]))
    assert batch["labels"].shape == batch["label_index"].shape == (0,)
    assert batch["label_index"].dtype == torch.int64


def test_how_many_targets_a_row_has_varies_beyond_the_floor_and_the_ceiling_of_its_share():
    found = targets(make_task().prepare_batch(batch_of(rows_of(200, 20))))
    counts = np.array([len(places) for places in found.values()])
    assert counts.sum() == 600
    # 600 of 3,600 places: about binomial, of mean 3 and variance 18 * 1/6 * 5/6 = 2.5.
    assert counts.var() == pytest.approx(2.5, rel=0.4)


def test_rows_of_rare_tokens_take_the_targets_of_the_others():
    counts = np.full(VOCABULARY, 10_000)
    counts[40:] = 1
    rows = [np.array([2, *[7] * 18, 3])] * 10 + [np.array([2, *[45] * 18, 3])] * 10
    found = targets(make_task(counts).prepare_batch(batch_of(rows)))
    assert sum(len(found[row]) for row in range(10, 20)) > 55
    assert sum(len(places) for places in found.values()) == 60


def test_the_targets_follow_weighted_sampling_without_replacement_over_the_rows():
    counts = np.ones(VOCABULARY, dtype=np.int64)
    counts[[10, 11, 12]] = 1, 4, 16
    rows = [np.array([2, 10, 3]), np.array([2, 11, 12, 3])]
    task, trials = make_task(counts, mask_probability=0.25, smoothing=1.0), 8000
    left_out = np.zeros(VOCABULARY)
    for epoch in range(trials):
        labels = task.prepare_batch(batch_of(rows, epoch=epoch))["labels"].numpy()
        assert len(labels) == 2
        left_out[np.setdiff1d([10, 11, 12], labels)] += 1 / trials
    weights = {10: 1.0, 11: 1 / 4, 12: 1 / 16}
    total = sum(weights.values())
    for last in weights:
        first, second = (weight for token, weight in weights.items() if token != last)
        expected = first / total * second / (total - first) + second / total * first / (total - second)
        assert left_out[last] == pytest.approx(expected, abs=0.02)


def test_a_rows_targets_depend_on_its_neighbours_but_not_on_their_order_or_the_step():
    rows = rows_of(6, 20)
    task = make_task()
    whole = targets(task.prepare_batch(batch_of(rows)))
    for order in itertools.islice(itertools.permutations(range(6)), 0, 720, 90):
        mixed = batch_of([rows[row] for row in order], order, step=9)
        assert targets(task.prepare_batch(mixed)) == whole
    parts = [targets(task.prepare_batch(batch_of(rows[start : start + 2], [start, start + 1]))) for start in (0, 2, 4)]
    assert {row: places for part in parts for row, places in part.items()} != whole


@pytest.mark.parametrize("changed", [{"seed": 2}, {"epoch": 1}, {"row_ids": range(100, 120)}])
def test_seed_epoch_and_row_id_each_change_the_targets(changed):
    rows, task = rows_of(20, 30), make_task()
    first = task.prepare_batch(batch_of(rows))["label_index"]
    assert torch.equal(task.prepare_batch(batch_of(rows))["label_index"], first)
    assert not torch.equal(task.prepare_batch(batch_of(rows, **changed))["label_index"], first)


def test_rows_and_partners_are_drawn_apart():
    rows, task = rows_of(200, 25), make_task()
    plain = add_partners(batch_of(rows), rows, np.arange(200) + 500, pad_id=0)
    batch = task.prepare_batch(plain)
    assert torch.equal(batch["label_index"], task.prepare_batch(batch_of(rows))["label_index"])
    ours, theirs = (set(batch[name].tolist()) for name in ("label_index", "partner_label_index"))
    assert len(ours) == len(theirs) == 750
    # Independent draws of 750 of 4,600 places meet by chance: 122 expected, standard deviation 9.
    assert len(ours & theirs) == pytest.approx(750**2 / 4600, abs=45)
