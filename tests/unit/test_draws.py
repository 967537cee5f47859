import numpy as np
import pytest

from raydistill import draws

INDEX = np.arange(100_000)


def test_a_draw_depends_on_its_keys_and_not_on_the_shape_of_the_call():
    whole = draws.hash64("s", 1, INDEX)
    assert draws.hash64("s", 1, 77) == whole[77]
    np.testing.assert_array_equal(draws.hash64("s", 1, INDEX[500:900:3]), whole[500:900:3])


def test_a_key_gives_the_same_draw_as_a_number_and_in_an_array():
    expected = draws.hash64("s", 5, -7, 2**63 - 1)
    assert draws.hash64("s", np.int32(5), np.int64(-7), 2**63 - 1) == expected
    assert draws.hash64("s", 5, np.array([-7]), np.array([[2**63 - 1]])).tolist() == [[int(expected)]]


def test_keys_broadcast_against_each_other():
    table = draws.uniform("s", 1, np.arange(3)[:, None], np.arange(5))
    assert table.shape == (3, 5)
    assert table[2, 4] == draws.uniform("s", 1, 2, 4)


@pytest.mark.parametrize(
    "other", [("t", 1, 2), ("s", 2, 2), ("s", 1, 3), ("s", 2, 1), ("s", 1, -2), ("s", 1), ("s", 1, 2, 0)]
)
def test_stream_each_key_their_order_and_their_number_change_the_draw(other):
    assert draws.hash64(*other) != draws.hash64("s", 1, 2)


def test_hashes_of_different_keys_differ():
    assert len(np.unique(draws.hash64("s", np.arange(300)[:, None], np.arange(300)))) == 90_000


def test_one_changed_bit_of_a_key_flips_half_of_the_hash():
    flipped = draws.hash64("s", INDEX) ^ draws.hash64("s", INDEX ^ 1)
    shares = [((flipped >> np.uint64(bit)) & np.uint64(1)).mean() for bit in range(64)]
    np.testing.assert_allclose(shares, 0.5, atol=0.01)


def test_uniform_draws_fill_zero_to_one_evenly():
    found = draws.uniform("s", 3, INDEX)
    assert found.min() >= 0
    assert found.max() < 1
    np.testing.assert_allclose(np.histogram(found, bins=20, range=(0, 1))[0] / len(INDEX), 0.05, atol=0.004)


def test_consecutive_keys_and_parallel_streams_are_uncorrelated():
    first, second = draws.uniform("s", INDEX), draws.uniform("t", INDEX)
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.015
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.015


def test_integers_are_even_and_below_high():
    np.testing.assert_allclose(np.bincount(draws.integers("s", INDEX, high=7)) / len(INDEX), 1 / 7, atol=0.005)


def test_high_broadcasts_against_the_keys():
    high = INDEX % 5 + 1
    found = draws.integers("s", INDEX, high=high)
    assert (found < high).all()
    assert (found >= 0).all()
    assert (found[high == 1] == 0).all()


def test_a_permutation_holds_every_number_once_and_is_not_the_identity():
    found = draws.permutation("s", 1, size=1000)
    np.testing.assert_array_equal(np.sort(found), np.arange(1000))
    assert (found == np.arange(1000)).sum() < 10
    assert not np.array_equal(found, draws.permutation("s", 2, size=1000))


@pytest.mark.parametrize("count", [0, 1, 40, 1000, 2000])
def test_the_first_of_a_permutation_are_found_without_the_rest(monkeypatch, count):
    monkeypatch.setattr(draws, "_PIECE", 64)
    expected = draws.permutation("s", 1, size=1000)[:count]
    np.testing.assert_array_equal(draws.first_of_permutation("s", 1, size=1000, count=count), expected)


def test_every_permutation_of_three_is_equally_likely():
    drawn = [tuple(draws.permutation("s", seed, size=3)) for seed in range(6000)]
    shares = [drawn.count(order) / 6000 for order in set(drawn)]
    assert len(shares) == 6
    np.testing.assert_allclose(shares, 1 / 6, atol=0.02)


def test_exponentials_are_positive_finite_and_have_the_exponentials_quantiles():
    found = draws.exponential("s", INDEX)
    assert found.min() > 0
    assert np.isfinite(found).all()
    probabilities = np.array([0.1, 0.5, 0.9, 0.99])
    np.testing.assert_allclose(np.quantile(found, probabilities), -np.log(1 - probabilities), rtol=0.05)


def test_draws_are_the_same_in_every_version():
    """Numbers computed by hand with Python integers from the finalizer of SplitMix64 chained over the keys."""

    def mix(state: int) -> int:
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        return state ^ (state >> 31)

    import zlib

    state = mix((zlib.crc32(b"mlm count") + 0x9E3779B97F4A7C15) % 2**64)
    for key in (42, 2**64 - 1, 2**40):
        state = mix(((state ^ key) + 0x9E3779B97F4A7C15) % 2**64)
    assert int(draws.hash64("mlm count", 42, -1, 2**40)) == state
    assert float(draws.uniform("mlm count", 42, -1, 2**40)) == (state >> 11) / 2**53
