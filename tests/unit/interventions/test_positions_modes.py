"""Positions drawn one by one: modes ``random`` and ``masked``, inside the true lengths or the padded width."""

import numpy as np
import pytest

from raydistill import draws
from raydistill.interventions.positions import MODES, interchange_positions

LENGTHS = np.array([10, 3, 25, 7, 12])
PARTNER_LENGTHS = np.array([12, 30, 4, 7, 2])
ROW_IDS = np.array([5, 900, 3, 77, 12])
WIDTH, PARTNER_WIDTH = 25, 30
COUNTS = [3, 0, 1, 2, 0]
# Places of the masked tokens by row: 3, 0, 6 (more than the partner's 4), 7 (all, as many as the partner's), 1.
MASKED = ([1, 4, 8], [], [0, 2, 5, 11, 20, 24], [0, 1, 2, 3, 4, 5, 6], [11])


def labels_of(masked):
    return np.array([row * WIDTH + place for row, places in enumerate(masked) for place in places])


LABEL_INDEX = labels_of(MASKED)


def positions(mode, rows=slice(None), *, width=WIDTH, partner_width=PARTNER_WIDTH, seed=1, epoch=0, **options):
    settings = {"proportion": 0.3, "max_tokens": None, "padded": False, "label_index": LABEL_INDEX, **options}
    return interchange_positions(
        mode,
        LENGTHS[rows],
        PARTNER_LENGTHS[rows],
        ROW_IDS[rows],
        width=width,
        partner_width=partner_width,
        seed=seed,
        epoch=epoch,
        **settings,
    )


def single(mode, length, partner_length, row_ids, *, width=None, partner_width=None, **options):
    """Positions (rows, count) and their partners' for many rows of one length."""
    settings = {"proportion": 0.3, "max_tokens": None, "padded": False, "label_index": None, "seed": 1, "epoch": 0}
    width, partner_width = width or length, partner_width or partner_length
    lengths, partner_lengths = (np.full(len(row_ids), value) for value in (length, partner_length))
    base, partner = interchange_positions(
        mode,
        lengths,
        partner_lengths,
        row_ids,
        width=width,
        partner_width=partner_width,
        **{**settings, **options},
    )
    return (base % width).reshape(len(row_ids), -1), (partner % partner_width).reshape(len(row_ids), -1)


def by_row(flat, width, num_rows=5):
    rows, places = np.divmod(flat, width)
    return [places[rows == row].tolist() for row in range(num_rows)]


def chi_square_is_small(counts) -> bool:
    """Whether equally likely cells were hit equally often: 5 standard deviations above the expected statistic."""
    expected = counts.sum() / counts.size
    freedom = counts.size - 1
    return ((counts - expected) ** 2 / expected).sum() < freedom + 5 * np.sqrt(2 * freedom)


def test_the_modes_are_those_of_the_published_flags():
    assert set(MODES) == {"consecutive", "masked", "random"}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("max_tokens", [None, 2, 1])
def test_a_row_and_its_partner_have_the_share_of_the_shorter_of_them_up_to_max_tokens(padded, max_tokens):
    for seed in range(50):
        base, partner = positions("random", padded=padded, max_tokens=max_tokens, seed=seed)
        expected = [min(count, max_tokens or count) for count in COUNTS]
        assert [len(places) for places in by_row(base, WIDTH)] == expected
        assert [len(places) for places in by_row(partner, PARTNER_WIDTH)] == expected


@pytest.mark.parametrize("mode", ["random", "masked"])
@pytest.mark.parametrize("padded", [False, True])
def test_positions_ascend_and_have_the_type_of_indices(mode, padded):
    for seed in range(50):
        for flat in positions(mode, padded=padded, seed=seed):
            assert flat.dtype == np.int64
            assert (np.diff(flat) > 0).all()


def test_valid_positions_lie_inside_the_true_lengths_and_padded_ones_reach_the_padded_width():
    found = {padded: ([], []) for padded in (False, True)}
    for padded, sides in found.items():
        for seed in range(300):
            for side, flat, width in zip(
                sides, positions("random", padded=padded, seed=seed), (WIDTH, PARTNER_WIDTH), strict=True
            ):
                side.append(by_row(flat, width)[3])
    valid, padded = ([set(np.concatenate(side).astype(int)) for side in found[key]] for key in (False, True))
    assert valid == [set(range(7)), set(range(7))]
    assert padded == [set(range(WIDTH)), set(range(PARTNER_WIDTH))]


@pytest.mark.parametrize("padded", [False, True])
def test_every_pair_of_places_is_equally_likely_on_both_sides(padded):
    for places, size in zip(
        single("random", 9, 7, np.arange(20_000), width=9, partner_width=7, padded=padded), (9, 7), strict=True
    ):
        assert places.shape == (20_000, 2)
        pairs = np.bincount(places[:, 0] * size + places[:, 1], minlength=size * size).reshape(size, size)
        upper = np.triu_indices(size, 1)
        assert pairs.sum() == pairs[upper].sum()
        assert chi_square_is_small(pairs[upper])


def test_every_place_is_equally_likely_in_the_padded_width():
    base, partner = single("random", 5, 4, np.arange(20_000), width=8, partner_width=11, padded=True)
    assert chi_square_is_small(np.bincount(base[:, 0], minlength=8))
    assert chi_square_is_small(np.bincount(partner[:, 0], minlength=11))


def test_a_rows_places_do_not_tell_those_of_its_partner():
    base, partner = single("random", 4, 5, np.arange(20_000), proportion=0.25)
    assert chi_square_is_small(np.bincount(base[:, 0] * 5 + partner[:, 0], minlength=20))


def test_all_places_are_taken_where_the_proportion_is_one():
    base, partner = single("random", 6, 6, np.arange(4), width=9, partner_width=8, proportion=1.0)
    assert base.tolist() == partner.tolist() == [list(range(6))] * 4


@pytest.mark.parametrize("mode", ["random", "masked"])
def test_a_row_alone_draws_as_in_a_batch_of_any_order_and_padding(mode):
    base, partner = (by_row(flat, width) for flat, width in zip(positions(mode), (WIDTH, PARTNER_WIDTH), strict=True))
    for row in range(5):
        label_index = np.array(MASKED[row], dtype=np.int64)
        alone = positions(mode, slice(row, row + 1), width=40, partner_width=50, label_index=label_index)
        assert [flat.tolist() for flat in alone] == [base[row], partner[row]]
    backwards = positions(mode, slice(None, None, -1), label_index=labels_of(MASKED[::-1]))
    assert by_row(backwards[0], WIDTH)[::-1] == base
    assert by_row(backwards[1], PARTNER_WIDTH)[::-1] == partner


@pytest.mark.parametrize(("mode", "depends"), [("random", [True, True]), ("masked", [False, True])])
def test_padded_positions_depend_on_the_width_that_the_batch_gives_them(mode, depends):
    rows = slice(3, 4)
    options = {"label_index": np.array([1, 4]), "padded": True}
    for side in range(2):
        narrow, wide = (
            [
                positions(mode, rows, width=width, partner_width=width, seed=seed, **options)[side].tolist()
                for seed in range(20)
            ]
            for width in (7, 30)
        )
        assert (narrow != wide) is depends[side]


@pytest.mark.parametrize("mode", ["random", "masked"])
@pytest.mark.parametrize("changed", [{"seed": 2}, {"epoch": 1}])
def test_seed_and_epoch_change_the_positions(mode, changed):
    before, again, after = (positions(mode, **keys)[1].tolist() for keys in ({}, {}, changed))
    assert before == again
    assert before != after


@pytest.mark.parametrize("padded", [False, True])
def test_masked_positions_are_the_masked_tokens_and_a_part_of_them_beyond_the_partners_length(padded):
    parts = set()
    for seed in range(300):
        base, partner = positions("masked", padded=padded, seed=seed)
        places = by_row(base, WIDTH)
        assert [len(found) for found in by_row(partner, PARTNER_WIDTH)] == [3, 0, 4, 7, 1]
        assert [places[row] for row in (0, 1, 3, 4)] == [MASKED[row] for row in (0, 1, 3, 4)]
        assert set(places[2]) < set(MASKED[2])
        parts.add(tuple(places[2]))
    # All 15 ways to take 4 of 6.
    assert len(parts) == 15


def test_partners_of_masked_tokens_are_uniform_in_true_lengths_or_in_the_padded_width():
    labels = np.arange(20_000) * 5 + 2
    for padded, size in ((False, 7), (True, 9)):
        base, partner = single("masked", 5, 7, np.arange(20_000), partner_width=9, label_index=labels, padded=padded)
        assert (base == 2).all()
        assert chi_square_is_small(np.bincount(partner[:, 0], minlength=size))


@pytest.mark.parametrize("options", [{"proportion": 0.01}, {"max_tokens": 1}])
def test_masked_positions_know_no_proportion_and_no_max_tokens(options):
    for changed, plain in zip(positions("masked", **options), positions("masked"), strict=True):
        assert changed.tolist() == plain.tolist()


def test_a_batch_without_any_position_gives_empty_indices():
    nothing = np.empty(0, dtype=np.int64)
    for mode, options in (("random", {"proportion": 0.01}), ("masked", {"label_index": nothing})):
        for flat in positions(mode, **options):
            assert flat.tolist() == []
            assert flat.dtype == np.int64


def test_padded_changes_nothing_in_consecutive_mode():
    for changed, plain in zip(positions("consecutive", padded=True), positions("consecutive"), strict=True):
        assert changed.tolist() == plain.tolist()
        assert len(plain) == sum(COUNTS)


def test_masked_positions_without_labels_are_refused():
    with pytest.raises(AssertionError, match="need the label positions"):
        positions("masked", label_index=None)


def test_the_places_of_a_row_are_those_with_its_smallest_hashes():
    keys = (4, 2)
    sides = (("interchange_base", WIDTH, LENGTHS), ("interchange_partner", PARTNER_WIDTH, PARTNER_LENGTHS))
    flats = positions("random", seed=keys[0], epoch=keys[1])
    for (stream, width, lengths), flat in zip(sides, flats, strict=True):
        for row, found in enumerate(by_row(flat, width)):
            hashes = [int(draws.hash64(stream, *keys, int(ROW_IDS[row]), place)) for place in range(lengths[row])]
            assert found == sorted(np.argsort(hashes)[: COUNTS[row]])
