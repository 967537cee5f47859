"""A distribution over a vocabulary, kept as its top-k ids and the mass of all others, and the divergence from it."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from raydistill.losses.divergences import Divergence
from raydistill.losses.reduction import widen

ROUNDING = 2.0**-11
"""Largest error of a stored log-probability, relative to itself: that of float16, which has 11 digits."""

_LEAST = -80.0
"""Stands for the log-probability of a tail without mass; its product with the mass is 0 in float32."""


class TopK(NamedTuple):
    """What is kept of a distribution; leading shape (...), k ids.

    Shapes: see the fields; unit: nats. Raises nothing by itself. Source: ``top_k_of`` makes it.

    >>> rd.losses.top_k_of(torch.tensor([0.0, 1.0]), 1).ids
    tensor([1])
    """

    ids: Tensor
    """(..., k) int64, the most probable first."""
    log_probs: Tensor
    """(..., k) log-probabilities (log-softmax over the whole vocabulary)."""
    log_tail: Tensor
    """(...) log-probability of all other ids together, minus infinity if there are none."""


def top_k_of(logits: Tensor, k: int) -> TopK:
    """The ``k`` most probable ids of logits (..., V) and the mass of the rest.

    The tail is summed by itself, not taken from 1, so that a small one keeps its digits. Raises ValueError for ``k``
    outside 1 to V. Shapes: returns (..., k) ids and log-probabilities and (...) masses, in nats. Source: none, it is
    exact.

    >>> rd.losses.top_k_of(torch.zeros(4), 2).log_tail.exp()
    tensor(0.5000)
    """
    if not 1 <= k <= logits.shape[-1]:
        raise ValueError(f"top_k is {k}; it must be between 1 and {logits.shape[-1]}, the size of the vocabulary")
    log_probs = log_softmax(widen(logits), dim=-1)
    kept, ids = log_probs.topk(k, dim=-1)
    return TopK(ids, kept, _log_tail(log_probs, ids))


def normalized(kept: TopK) -> TopK:
    """The same ids with log-probabilities whose probabilities, the tail's too, add up to 1.

    Stored ones are rounded and need it: a divergence from what is no distribution may be negative. Each then differs
    from the log-probability before rounding by ``ROUNDING * (-log p + H)`` at most, H the entropy over ids and tail, up
    to terms of second order, so that the forward KL divergence moves by the mean of that times ``abs(log p - log q)``.
    Shapes: (..., k) and (...), in float32; unit: nats. Raises nothing by itself. Source: none, it is arithmetic.
    """
    log_probs, log_tail = kept.log_probs.float(), kept.log_tail.float()
    total = torch.logaddexp(log_probs.logsumexp(dim=-1), log_tail)
    return TopK(kept.ids, log_probs - total.unsqueeze(-1), log_tail - total)


def mixed(kept: Sequence[TopK], shares: Sequence[float]) -> TopK:
    """The mean of several distributions, by shares that add up to 1, as far as all of them are known.

    Of an id that one did not keep only a bound is known, so it counts to the tail, its log-probability minus infinity;
    ids are those of the first. This is the exact mixture with ids joined, from which no divergence is greater.
    Shapes: (..., k), which may differ from the first's, and (...); unit: nats. Raises nothing by itself. Source: none,
    it is arithmetic.
    """
    first, in_all = kept[0], torch.ones_like(kept[0].ids, dtype=torch.bool)
    places = []
    for one in kept:
        ordered, order = one.ids.sort(dim=-1)
        place = torch.searchsorted(ordered, first.ids.contiguous()).clamp(max=ordered.shape[-1] - 1)
        in_all &= ordered.gather(-1, place) == first.ids
        places.append(order.gather(-1, place))
    common, tails = [], []
    for one, place, share in zip(kept, places, shares, strict=True):
        common.append(one.log_probs.gather(-1, place) + math.log(share))
        others = torch.cat(
            [one.log_probs, one.log_tail.unsqueeze(-1), torch.full_like(one.log_tail, -math.inf)[..., None]], -1
        )
        # Ids that not all have stay where they are: the last column is nobody's.
        others = others.scatter(-1, torch.where(in_all, place, others.shape[-1] - 1), -math.inf)
        tails.append(others.logsumexp(dim=-1) + math.log(share))
    log_probs = torch.stack(common).logsumexp(dim=0).masked_fill(~in_all, -math.inf)
    return TopK(first.ids, log_probs, torch.stack(tails).logsumexp(dim=0))


def top_k_divergence(student_logits: Tensor, teacher: TopK, divergence: Divergence) -> tuple[Tensor, Tensor]:
    """A divergence in which all ids that the teacher's store left out count as one, and its gradient in the logits.

    Shapes: ``student_logits`` (..., V), in the dtype that sums are kept in; returns (...), in nats at temperature 1,
    and (..., V). It never exceeds the divergence over all ids: all of ``losses.divergences`` are f-divergences, which
    fall when ids are joined. The forward KL divergence falls short by P * KL(p' || q') at most, P the teacher's tail
    mass, p' and q' the two distributions inside the tail; so by P * (log Q - log q) at most, Q the student's tail mass
    and q its smallest probability there.
    Raises RuntimeError, torch's own, for shapes that do not fit. Source: Csiszár and Shields 2004, lemma 4.1.

    >>> kept = rd.losses.top_k_of(torch.zeros(4), 2)
    >>> value, gradient = rd.losses.top_k_divergence(torch.zeros(4), kept, rd.losses.divergence_of("jsd"))
    >>> round(value.item(), 6)
    0.0
    """
    gradient = torch.empty_like(student_logits)
    return divergence_into(gradient, student_logits, teacher, divergence, scale=1.0), gradient


def divergence_into(
    out: Tensor, student_logits: Tensor, teacher: TopK, divergence: Divergence, *, scale: Tensor | float
) -> Tensor:
    """The values of ``top_k_divergence``; its gradient times ``scale`` is written to ``out``.

    Reads the logits three times and writes ``out`` twice, whatever the number of ids: no other copy of them is made.
    An id whose log-probability is minus infinity is one of the tail, with all that are not kept.
    """
    ids, in_tail = teacher.ids, teacher.log_probs == float("-inf")
    largest = student_logits.amax(dim=-1, keepdim=True)
    kept = student_logits.gather(-1, ids) - largest
    torch.sub(student_logits, largest, out=out).exp_()
    # Summed by itself, not taken from 1, so that a small tail keeps its digits.
    out.scatter_(-1, ids, torch.where(in_tail, kept.exp(), 0.0))
    tail = out.sum(dim=-1, keepdim=True)
    total = tail + kept.exp().masked_fill(in_tail, 0.0).sum(dim=-1, keepdim=True)
    log_tail = (tail.log() - total.log()).clamp(min=_LEAST)
    log_q = torch.cat([(kept - total.log()).masked_fill(in_tail, _LEAST), log_tail], dim=-1)
    of_tail = teacher.log_tail.clamp(min=_LEAST).unsqueeze(-1)
    of_teacher = torch.cat([teacher.log_probs.masked_fill(in_tail, _LEAST), of_tail], dim=-1)
    values, slope = divergence(log_q, of_teacher.to(log_q.dtype))
    pull = slope.sum(dim=-1, keepdim=True)
    # Each id of the tail moves its mass in proportion to its own probability.
    factor = (slope[..., -1:] * (-log_tail).exp() - pull) / total * scale
    at_ids = (slope[..., :-1] - log_q[..., :-1].exp() * pull) * scale
    out.mul_(factor).scatter_(-1, ids, torch.where(in_tail, kept.exp() * factor, at_ids))
    return values


def _log_tail(log_probs: Tensor, ids: Tensor) -> Tensor:
    """Log-probability (...) of all ids but these."""
    return log_probs.scatter(-1, ids, float("-inf")).logsumexp(dim=-1)
