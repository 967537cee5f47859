import numpy as np

from raydistill.interventions.positions import consecutive_positions, span_lengths

LENGTHS = np.array([10, 3, 25, 7, 12])
PARTNER_LENGTHS = np.array([12, 30, 4, 7, 2])
ROW_IDS = np.array([5, 900, 3, 77, 12])
WIDTH, PARTNER_WIDTH = 25, 30


def positions(rows=slice(None), *, width=WIDTH, partner_width=PARTNER_WIDTH, seed=1, epoch=0, **options):
    settings = {"proportion": 0.3, "max_tokens": None, **options}
    return consecutive_positions(
        LENGTHS[rows],
        PARTNER_LENGTHS[rows],
        ROW_IDS[rows],
        width=width,
        partner_width=partner_width,
        seed=seed,
        epoch=epoch,
        **settings,
    )


def test_span_length_is_the_floor_of_the_proportion_of_the_shorter_row():
    counts = span_lengths(LENGTHS, PARTNER_LENGTHS, proportion=0.3, max_tokens=None)
    assert counts.tolist() == [3, 0, 1, 2, 0]


def test_max_tokens_caps_span_lengths():
    assert span_lengths(LENGTHS, PARTNER_LENGTHS, proportion=0.3, max_tokens=2).tolist() == [2, 0, 1, 2, 0]
    base, partner = positions(max_tokens=1)
    assert len(base) == len(partner) == 3


def test_spans_are_consecutive_equally_long_and_inside_true_lengths():
    counts = span_lengths(LENGTHS, PARTNER_LENGTHS, proportion=0.3, max_tokens=None)
    for seed in range(200):
        for flat, width, lengths in zip(
            positions(seed=seed), (WIDTH, PARTNER_WIDTH), (LENGTHS, PARTNER_LENGTHS), strict=True
        ):
            rows, columns = np.divmod(flat, width)
            assert rows.tolist() == np.repeat(np.arange(5), counts).tolist()
            assert (columns < lengths[rows]).all()
            for row in np.unique(rows):
                assert (np.diff(columns[rows == row]) == 1).all()


def test_every_start_from_zero_to_length_minus_span_occurs_on_both_sides_independently():
    starts = {tuple(int(flat[0]) for flat in positions(slice(0, 1), seed=seed)) for seed in range(3000)}
    assert starts == {(base, partner) for base in range(8) for partner in range(10)}


def test_base_positions_ascend():
    assert (np.diff(positions()[0]) > 0).all()


def test_positions_within_rows_depend_on_row_id_and_epoch_and_not_on_the_batch():
    base, partner = positions()
    alone_base, alone_partner = positions(slice(2, 4), width=40, partner_width=50)
    assert (base[3:] % WIDTH).tolist() == (alone_base % 40).tolist()
    assert (partner[3:] % PARTNER_WIDTH).tolist() == (alone_partner % 50).tolist()
    assert positions(epoch=1)[0].tolist() != base.tolist()
