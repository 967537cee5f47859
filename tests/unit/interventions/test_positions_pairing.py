"""Which row of a batch is whose partner."""

import itertools
from collections import Counter

import numpy as np
import pytest

from raydistill.interventions.positions import in_batch_partners


@pytest.mark.parametrize("size", [2, 3, 8, 33])
def test_the_rows_stand_in_one_circle_so_that_none_is_its_own_partner(size):
    for seed in range(30):
        partners = in_batch_partners(np.arange(size) * 11, seed=seed, epoch=0)
        seen, row = [], 0
        for _ in range(size):
            seen.append(row)
            row = int(partners[row])
        assert row == 0
        assert sorted(seen) == list(range(size))


def test_a_row_alone_is_its_own_partner():
    assert in_batch_partners(np.array([7]), seed=1, epoch=0).tolist() == [0]


def test_a_row_has_the_same_partner_wherever_it_stands_in_the_batch():
    row_ids = np.array([5, 900, 3, 77, 12, 8])
    expected = dict(zip(row_ids, row_ids[in_batch_partners(row_ids, seed=1, epoch=0)], strict=True))
    for order in itertools.permutations(row_ids):
        mixed = np.array(order)
        assert dict(zip(mixed, mixed[in_batch_partners(mixed, seed=1, epoch=0)], strict=True)) == expected


def test_a_rows_partner_depends_on_the_rows_it_is_with():
    row_ids = np.arange(16)
    whole = in_batch_partners(row_ids, seed=1, epoch=0)[:8].tolist()
    assert in_batch_partners(row_ids[:8], seed=1, epoch=0).tolist() != whole


def test_every_circle_is_equally_likely_over_epochs_and_seeds():
    for keys in ({"seed": 1}, {"epoch": 1}):
        (missing,) = {"seed", "epoch"} - keys.keys()
        found = Counter(
            tuple(in_batch_partners(np.array([4, 9, 2, 6]), **keys, **{missing: key}).tolist()) for key in range(6000)
        )
        # (4 - 1)! circles; the standard deviation of a count of 1000 is 29.
        assert len(found) == 6
        assert all(abs(count - 1000) < 150 for count in found.values())
