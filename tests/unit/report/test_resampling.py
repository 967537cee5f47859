"""Intervals, tests and shares of a gap, against plain formulas and SciPy."""

import numpy as np
import pytest
from scipy import stats

from raydistill.report.resampling import Interval, Scores, gains, resampled, two_sided_p

NUM = 20_000
SEEDS = (1, 2, 3, 4, 5)


def scores(values: object, seeds: tuple[object, ...] = SEEDS, weights: object = None) -> Scores:
    found = np.atleast_2d(np.asarray(values, dtype=np.float64))
    ones = np.ones(found.shape[1]) if weights is None else np.asarray(weights, dtype=np.float64)
    return Scores(seeds[: len(found)], found, ones)


def test_the_interval_of_one_seed_is_that_of_scipys_bootstrap_over_rows() -> None:
    values = np.random.default_rng(0).normal(size=150)
    drawn = resampled({"a": scores(values)}, num_resamples=NUM, seed=0)["a"]
    found = Interval.of(values.mean(), drawn)
    its = stats.bootstrap((values,), np.mean, n_resamples=NUM, method="percentile", rng=1).confidence_interval
    assert (found.low, found.high) == pytest.approx((its.low, its.high), abs=0.01)


def test_seeds_alone_give_the_unbiased_standard_error_of_their_mean() -> None:
    means = np.array([0.70, 0.74, 0.71, 0.78, 0.72])
    drawn = resampled({"a": scores(np.repeat(means[:, None], 30, axis=1))}, num_resamples=NUM, seed=0)["a"]
    assert drawn.std() == pytest.approx(means.std(ddof=1) / np.sqrt(5), rel=0.02)


def test_seeds_and_rows_add_their_variances() -> None:
    generator = np.random.default_rng(3)
    of_seed, of_row = generator.normal(size=(5, 1)), generator.normal(size=(1, 200))
    drawn = resampled({"a": scores(of_seed + of_row)}, num_resamples=NUM, seed=0)["a"]
    expected = of_seed.var(ddof=1) / 5 + of_row.var() / 200
    assert drawn.var() == pytest.approx(expected, rel=0.04)


def test_a_difference_is_paired_in_rows_and_in_seeds() -> None:
    generator = np.random.default_rng(4)
    alone = generator.normal(size=(5, 1)) + generator.normal(size=(1, 100))
    found = gains(
        {"teacher": scores(alone[:1] + 9, (0,)), "alone": scores(alone), "kd": scores(alone + 0.25)},
        teacher="teacher",
        alone="alone",
        num_resamples=1000,
        seed=0,
    )["kd"]
    assert (found.difference.low, found.difference.high) == pytest.approx((0.25, 0.25))
    assert found.figure.high - found.figure.low > 0.5
    assert found.p == 2 / 1001


def test_models_of_other_seeds_are_drawn_by_themselves() -> None:
    means = np.repeat(np.array([[0.0], [1.0], [2.0], [3.0], [4.0]]), 4, axis=1)
    models = {"a": scores(means), "same": scores(means), "other": scores(means, (6, 7, 8, 9, 10))}
    drawn = resampled(models, num_resamples=500, seed=0)
    assert (drawn["a"] == drawn["same"]).all()
    assert (drawn["a"] != drawn["other"]).any()


def test_equal_students_do_not_differ() -> None:
    values = np.random.default_rng(1).integers(0, 2, size=(3, 50))
    models = {"teacher": scores(np.ones(50)), "alone": scores(values), "kd": scores(values)}
    found = gains(models, teacher="teacher", alone="alone", num_resamples=1000, seed=0)
    assert found["kd"].p == 1.0
    assert found["kd"].gap_closed == Interval(0.0, 0.0, 0.0)


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.2])
def test_the_p_value_over_rows_is_near_that_of_scipys_permutations(shift: float) -> None:
    generator = np.random.default_rng(7)
    alone = generator.normal(size=400)
    student = alone + generator.normal(size=400) + shift
    models = {"alone": scores(alone), "kd": scores(student)}
    drawn = resampled(models, num_resamples=NUM, seed=0)
    result = stats.permutation_test(
        (student, alone),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        vectorized=True,
        permutation_type="samples",
        n_resamples=NUM,
        batch=1000,
        rng=1,
    )
    assert two_sided_p(drawn["kd"] - drawn["alone"]) == pytest.approx(result.pvalue, abs=0.02)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_share_of_the_gap_is_told_whichever_value_is_better(sign: int) -> None:
    rows = np.zeros(20)
    models = {"teacher": scores(rows + sign * 0.9), "alone": scores(rows + sign * 0.5), "kd": scores(rows + sign * 0.6)}
    found = gains(models, teacher="teacher", alone="alone", num_resamples=1000, seed=0)
    assert found["kd"].gap_closed is not None
    assert found["kd"].gap_closed.value == pytest.approx(0.25)
    assert (found["alone"].gap_closed, found["teacher"].gap_closed) == (Interval(0, 0, 0), Interval(1, 1, 1))


def test_there_is_no_share_of_a_gap_that_may_be_nothing() -> None:
    generator = np.random.default_rng(2)
    teacher, alone = generator.normal(size=(2, 30))
    models = {"teacher": scores(teacher), "alone": scores(alone), "kd": scores(alone + 1)}
    assert gains(models, teacher="teacher", alone="alone", num_resamples=1000, seed=0)["kd"].gap_closed is None


def test_rows_count_by_their_weights_and_a_figure_is_finished_for_each_seed() -> None:
    tokens, losses = np.array([1.0, 3.0]), np.array([[2.0, 1.0], [3.0, 2.0]])
    one = Scores((1, 2), losses, tokens, np.exp)
    assert one.mean() == pytest.approx((np.exp(5 / 4) + np.exp(9 / 4)) / 2)
    drawn = resampled({"a": one}, num_resamples=500, seed=0)["a"]
    # Of two rows a resample has the first twice, the second twice or both; of two seeds it has one.
    possible = np.exp([2.0, 1.0, 5 / 4, 3.0, 2.0, 9 / 4])
    assert np.isclose(drawn[:, None], possible).any(axis=1).all()
    assert len(np.unique(drawn.round(9))) == 5


def test_a_seed_repeats_the_resamples_whatever_their_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    models = {"a": scores(np.random.default_rng(0).normal(size=(3, 40)))}
    whole = resampled(models, num_resamples=200, seed=5)["a"]
    monkeypatch.setattr("raydistill.report.resampling._MOST_COUNTS", 40 * 7)
    assert (resampled(models, num_resamples=200, seed=5)["a"] == whole).all()
    assert (resampled(models, num_resamples=200, seed=6)["a"] != whole).any()
