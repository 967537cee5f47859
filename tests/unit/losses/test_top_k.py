import math

import pytest
import torch
from torch.nn.functional import log_softmax

from raydistill.losses.divergences import NAMES, divergence_of, forward_kl
from raydistill.losses.soft_targets import kl_divergence
from raydistill.losses.top_k import ROUNDING, TopK, normalized, top_k_divergence, top_k_of

VOCABULARY = 200


def logits(seed: int, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(5, VOCABULARY, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * scale


def top_k_kl_divergence(student: torch.Tensor, teacher: TopK) -> torch.Tensor:
    return top_k_divergence(student, teacher, forward_kl)[0]


def buckets(log_probs: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The log-probabilities of these ids and of all others together."""
    tail = log_probs.scatter(-1, ids, -math.inf).logsumexp(-1, keepdim=True)
    return torch.cat([log_probs.gather(-1, ids), tail], dim=-1)


def test_what_is_kept_and_the_tail_are_one_distribution():
    kept = top_k_of(logits(0), 16)
    expected = log_softmax(logits(0), -1)
    assert torch.equal(kept.log_probs, expected.gather(-1, kept.ids))
    assert (kept.log_probs[:, -1] >= expected.scatter(-1, kept.ids, -math.inf).amax(-1)).all()
    total = kept.log_probs.exp().sum(-1) + kept.log_tail.exp()
    torch.testing.assert_close(total, torch.ones(5, dtype=torch.float64))


def test_a_tail_smaller_than_rounding_keeps_its_digits():
    sharp = torch.zeros(1, 50, dtype=torch.float32)
    sharp[0, 7] = 40.0
    assert top_k_of(sharp, 1).log_tail.item() == pytest.approx(math.log(49) - 40, rel=1e-6)


@pytest.mark.parametrize("k", [1, 8, 64, VOCABULARY - 1])
@pytest.mark.parametrize("scale", [0.5, 3.0, 12.0])
def test_the_divergence_with_a_tail_bucket_is_below_the_exact_one_by_no_more_than_the_stated_bound(k, scale):
    student, teacher = logits(1, scale), logits(2, scale)
    kept = top_k_of(teacher, k)
    exact = kl_divergence(student, teacher, temperature=1.0)
    missing = exact - top_k_kl_divergence(student, kept)
    of_student = log_softmax(student, -1)
    outside = torch.ones_like(student, dtype=torch.bool).scatter(-1, kept.ids, False)
    tails = of_student.masked_fill(~outside, -math.inf).logsumexp(-1)
    smallest = of_student.masked_fill(~outside, math.inf).amin(-1)
    within = torch.where(
        outside,
        (log_softmax(teacher, -1) - kept.log_tail[:, None]).exp()
        * (log_softmax(teacher, -1) - kept.log_tail[:, None] - of_student + tails[:, None]),
        0.0,
    ).sum(-1)
    torch.testing.assert_close(missing, kept.log_tail.exp() * within, atol=1e-12, rtol=1e-9)
    rounding = 1e-12
    assert (missing >= -rounding).all()
    assert (missing <= kept.log_tail.exp() * (tails - smallest) + rounding).all()
    if k < 64:
        assert (missing > 1e-6).any()


def test_the_divergence_is_exact_when_all_ids_are_kept_and_zero_at_the_teacher():
    exact = kl_divergence(logits(1), logits(2), temperature=1.0)
    whole = top_k_of(logits(2), VOCABULARY)
    assert (whole.log_tail == -math.inf).all()
    torch.testing.assert_close(top_k_kl_divergence(logits(1), whole), exact)
    assert top_k_kl_divergence(logits(1), top_k_of(logits(1), 8)).abs().max() < 1e-12


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("k", [1, 16])
def test_value_and_gradient_are_those_of_the_distributions_over_buckets(name, k):
    student, kept = logits(1).requires_grad_(), top_k_of(logits(2), k)
    expected, _ = divergence_of(name)(
        buckets(log_softmax(student, -1), kept.ids), buckets(log_softmax(logits(2), -1), kept.ids)
    )
    (wanted,) = torch.autograd.grad(expected.sum(), student)
    values, gradient = top_k_divergence(student.detach(), kept, divergence_of(name))
    torch.testing.assert_close(values, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_joined_ids_never_diverge_more_and_all_ids_diverge_as_much(name):
    divergence = divergence_of(name)
    exact, _ = divergence(log_softmax(logits(1), -1), log_softmax(logits(2), -1))
    for k in (1, 16, 64):
        assert (top_k_divergence(logits(1), top_k_of(logits(2), k), divergence)[0] <= exact + 1e-12).all()
    whole, _ = top_k_divergence(logits(1), top_k_of(logits(2), VOCABULARY), divergence)
    torch.testing.assert_close(whole, exact, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_its_gradient_is_finite_and_zero_at_the_teacher(name):
    _, gradient = top_k_divergence(logits(1), top_k_of(logits(1), 8), divergence_of(name))
    # The total variation has a kink there.
    assert name == "tvd" or gradient.abs().max() < 1e-12
    for teacher in (top_k_of(logits(2), VOCABULARY), top_k_of(logits(2) * 100, 8)):
        _, gradient = top_k_divergence(logits(1).float(), TopK(*teacher), divergence_of(name))
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", NAMES)
def test_an_id_of_probability_zero_counts_to_the_tail(name):
    whole = top_k_of(logits(2), 16)
    fewer = TopK(whole.ids[:, :5], whole.log_probs[:, :5], top_k_of(logits(2), 5).log_tail)
    dropped = TopK(whole.ids, whole.log_probs.clone(), fewer.log_tail)
    dropped.log_probs[:, 5:] = -math.inf
    expected, found = (top_k_divergence(logits(1), one, divergence_of(name)) for one in (fewer, dropped))
    for wanted, value in zip(expected, found, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["reverse_kl", "forward_kl"])
def test_kept_ids_of_tiny_probability_keep_their_digits(name):
    student, teacher = logits(1, 60.0), logits(2, 60.0)
    kept = top_k_of(teacher, VOCABULARY)
    assert kept.log_probs.min() < -200
    exact, _ = divergence_of(name)(log_softmax(student, -1), log_softmax(teacher, -1))
    torch.testing.assert_close(top_k_divergence(student, kept, divergence_of(name))[0], exact, rtol=1e-9, atol=1e-12)


def test_more_ids_than_there_are_and_none_are_refused():
    for k in (0, VOCABULARY + 1):
        with pytest.raises(ValueError, match=rf"top_k is {k}; it must be between 1 and {VOCABULARY}"):
            top_k_of(logits(0), k)


def rounded(kept: TopK) -> TopK:
    return TopK(kept.ids, kept.log_probs.half(), kept.log_tail.half())


@pytest.mark.parametrize("k", [1, 16, VOCABULARY])
@pytest.mark.parametrize("scale", [0.01, 3.0, 30.0])
def test_rounded_log_probabilities_are_a_distribution_again_and_no_further_off_than_stated(k, scale):
    exact = top_k_of(logits(2, scale), k)
    found = normalized(rounded(exact))
    total = torch.logaddexp(found.log_probs.logsumexp(-1), found.log_tail)
    assert total.abs().max() < 1e-6
    before = torch.cat([exact.log_probs, exact.log_tail[:, None]], -1)
    after = torch.cat([found.log_probs, found.log_tail[:, None]], -1).double()
    p = before.exp()
    entropy = -torch.where(p > 0, p * before.clamp(min=-1e9), 0.0).sum(-1, keepdim=True)
    bound = 1.01 * ROUNDING * (entropy - before) + 1e-6
    off = torch.where(before.isinf(), 0.0, after - before).abs()
    assert (off <= bound).all()
    assert torch.equal(after.isinf(), before.isinf())
    moved = top_k_kl_divergence(logits(1, scale), found) - top_k_kl_divergence(logits(1, scale), exact)
    of_student = buckets(log_softmax(logits(1, scale), -1), exact.ids)
    most = torch.where(p > 0, p * bound * (before - of_student).abs(), 0.0).sum(-1)
    assert (moved.abs() <= 1.01 * most + 1e-6).all()


@pytest.mark.parametrize("name", NAMES)
def test_no_divergence_from_rounded_log_probabilities_is_negative(name):
    for seed in range(20):
        values, _ = top_k_divergence(logits(seed), normalized(rounded(top_k_of(logits(seed), 64))), divergence_of(name))
        assert (values >= -1e-6).all()
