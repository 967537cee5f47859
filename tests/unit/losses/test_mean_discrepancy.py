import math

import pytest
import torch

from raydistill.losses.mean_discrepancy import mmd
from toys.dynamic import g, printed

FIRST = g((4, 3, 2), 0.31, 0.7, 1)
SECOND = g((4, 3, 2), 0.17, 1.1, 1)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # Run on the published code.
        ({}, 0.70954319869873),
        ({"normalized": False}, 0.68766949420852),
        ({"sigmas": [1, 2]}, 0.24858581540598),
    ],
)
def test_published_values(options, expected):
    assert mmd(FIRST, SECOND, **options).item() == printed(expected, 14)


def test_a_set_has_no_distance_from_itself():
    assert mmd(FIRST, FIRST).item() == 0


def kernel_sum(distance, sigmas):
    # As published no distance counts less.
    return sum(math.exp(-max(distance, 1e-12) / (2 * sigma**2)) for sigma in sigmas)


def by_pairs(first, second, sigmas):
    """The estimate written out over all pairs of vectors."""
    sets = first.flatten(1), second.flatten(1)
    means = [
        sum(kernel_sum((x - y).square().sum().item(), sigmas) for x in one for y in other) / (len(one) * len(other))
        for one, other in ((sets[0], sets[0]), (sets[1], sets[1]), sets)
    ]
    return means[0] + means[1] - 2 * means[2]


def test_it_is_the_mean_over_pairs_within_less_twice_that_between():
    sigmas = [0.5, 2.0]
    found = mmd(FIRST, SECOND, normalized=False, sigmas=sigmas).item()
    assert found == pytest.approx(by_pairs(FIRST, SECOND, sigmas), abs=1e-12)


def bandwidths(first, second):
    """The default ones, from the mean squared distance of all pairs."""
    vectors = torch.cat([first, second]).flatten(1)
    variance = torch.cdist(vectors, vectors).square().mean().item()
    return [math.sqrt(scale * variance) for scale in (0.25, 0.5, 1, 2, 4)]


def test_bandwidths_surround_the_mean_squared_distance_and_carry_no_gradient():
    gradients = []
    for sigmas in (None, bandwidths(FIRST, SECOND)):
        vectors = FIRST.clone().requires_grad_()
        mmd(vectors, SECOND, normalized=False, sigmas=sigmas).backward()
        gradients.append(vectors.grad)
    torch.testing.assert_close(*gradients, atol=1e-11, rtol=0)


def test_gradient_reaches_both_sets():
    sets = [FIRST.clone().requires_grad_(), SECOND.clone().requires_grad_()]
    mmd(*sets).backward()
    assert all(vectors.grad.abs().max() > 1e-3 for vectors in sets)


def test_half_precision_is_computed_in_float32():
    halves = FIRST.bfloat16(), SECOND.bfloat16()
    found = mmd(*halves)
    assert found.dtype == torch.float32
    assert found.equal(mmd(*(vectors.float() for vectors in halves)))


def test_autocast_does_not_narrow_it():
    sets = FIRST.float(), SECOND.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mmd(*sets)
    assert found.equal(mmd(*sets))


@pytest.mark.parametrize(("first", "second"), [(FIRST[:1], SECOND[:1]), (FIRST[:1], FIRST[:1]), (FIRST * 0, FIRST * 0)])
@pytest.mark.parametrize("normalized", [True, False])
def test_single_and_equal_vectors_have_a_finite_value_and_gradient(first, second, normalized):
    vectors = first.float().requires_grad_()
    found = mmd(vectors, second.float(), normalized=normalized)
    found.backward()
    assert torch.isfinite(found)
    assert torch.isfinite(vectors.grad).all()


def test_sets_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"first has shape \(4, 3, 2\), second \(3, 3, 2\)"):
        mmd(FIRST, SECOND[:3])
