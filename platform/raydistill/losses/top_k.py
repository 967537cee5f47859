"""A distribution over a vocabulary, kept as its top-k ids and the mass of all others, and the divergence from it."""

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
    log_q = log_softmax(student_logits, dim=-1)
    kept = log_q.gather(-1, teacher.ids)
    log_tail = _log_tail(log_q, teacher.ids).clamp(min=_LEAST).unsqueeze(-1)
    of_teacher = torch.cat([teacher.log_probs, teacher.log_tail.clamp(min=_LEAST).unsqueeze(-1)], dim=-1)
    values, slope = divergence(torch.cat([kept, log_tail], dim=-1), of_teacher.to(log_q.dtype))
    total = slope.sum(dim=-1, keepdim=True)
    # Each id of the tail moves its mass in proportion to its own probability.
    gradient = log_q.exp() * (slope[..., -1:] * (-log_tail).exp() - total)
    return values, gradient.scatter_(-1, teacher.ids, slope[..., :-1] - kept.exp() * total)


def _log_tail(log_probs: Tensor, ids: Tensor) -> Tensor:
    """Log-probability (...) of all ids but these."""
    return log_probs.scatter(-1, ids, float("-inf")).logsumexp(dim=-1)
