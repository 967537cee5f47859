import random

import pytest

from raydistill.search.domains import Choice, Grid, LogUniform, QUniform, RandInt, Uniform, parse


@pytest.mark.parametrize(
    ("written", "domain"),
    [
        ([2, 4], Choice((2, 4))),
        ({"choice": ["finetune", {"name": "kd", "alpha": 0.5}]}, Choice(("finetune", {"name": "kd", "alpha": 0.5}))),
        ([[0, 3], [1, 4]], Choice(([0, 3], [1, 4]))),
        ({"grid": [True, False]}, Grid((True, False))),
        ({"uniform": [0, 1]}, Uniform(0.0, 1.0)),
        ({"loguniform": [1e-5, 1e-3]}, LogUniform(1e-5, 1e-3)),
        ({"quniform": [0.1, 0.5, 0.1]}, QUniform(0.1, 0.5, 0.1)),
        ({"randint": [1, 3]}, RandInt(1, 3)),
    ],
)
def test_each_form_is_read_and_written_back(written, domain):
    assert parse(written) == domain
    assert parse(domain.dump()) == domain


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        (3, "write a list of choices"),
        ({"uniform": [0, 1], "grid": [1]}, "write a list of choices"),
        ({"unifrom": [0, 1]}, "the domain is 'unifrom'; did you mean 'uniform'?"),
        ([], "choice is empty; list the values"),
        ({"grid": []}, "grid is empty"),
        ([1, 2, 1], "choice has 1 twice; remove one"),
        ({"uniform": 3}, r"uniform is 3; write \{uniform: \[low, high\]\}"),
        ({"uniform": [1]}, "with numbers"),
        ({"uniform": ["a", "b"]}, "with numbers"),
        ({"uniform": [0, float("inf")]}, "with numbers"),
        ({"uniform": [2, 1]}, "low is not below high"),
        ({"randint": [2, 2]}, "low is not below high"),
        ({"loguniform": [0, 1]}, "a logarithm needs a low above 0"),
        ({"randint": [0, 1.5]}, "write whole numbers, or use quniform"),
        ({"quniform": [0, 1]}, r"low, high, step"),
        ({"quniform": [0, 1, 0]}, "the step must be above 0"),
        ({"quniform": [0, 1, 0.3]}, "high is not a multiple of the step"),
    ],
)
def test_what_is_no_domain_is_refused_in_one_line(written, problem):
    with pytest.raises(ValueError, match=problem) as refusal:
        parse(written)
    assert "\n" not in str(refusal.value)


def test_1_and_true_are_different_choices():
    assert parse([1, True]).values == (1, True)


@pytest.mark.parametrize("written", [{"uniform": [1, 8]}, {"loguniform": [1e-4, 1e-1]}, {"quniform": [0.1, 0.7, 0.1]}])
def test_samples_lie_in_the_range_and_a_seed_repeats_them(written):
    domain = parse(written)
    drawn = [domain.sample(random.Random(seed)) for seed in range(200)]
    assert all(domain.low <= value <= domain.high for value in drawn)
    assert drawn == [domain.sample(random.Random(seed)) for seed in range(200)]
    assert len(set(drawn)) > 5


def test_half_of_a_log_uniform_lies_below_the_geometric_mean():
    domain, rng = LogUniform(1.0, 100.0), random.Random(1)
    share = sum(domain.sample(rng) < 10.0 for _ in range(4000)) / 4000
    assert 0.46 < share < 0.54


def test_stepped_and_whole_numbers_reach_both_ends():
    rng = random.Random(1)
    assert {QUniform(0.1, 0.4, 0.1).sample(rng) for _ in range(200)} == {0.1, 0.2, 0.3, 0.4}
    assert {RandInt(1, 3).sample(rng) for _ in range(200)} == {1, 2, 3}
