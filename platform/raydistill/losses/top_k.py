"""A distribution over a vocabulary, kept as its top-k ids and the mass of all others, and the divergence from it."""

from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import log_softmax

from raydistill.losses.reduction import widen

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


def top_k_kl_divergence(student_logits: Tensor, teacher: TopK) -> Tensor:
    """KL(teacher || student) in which all ids that the teacher's store left out count as one.

    Shapes: ``student_logits`` (..., V); returns (...), in nats, at temperature 1. It never exceeds the divergence over
    all ids, by the log-sum inequality, and falls short of it by P * KL(p' || q') at most, P the teacher's tail mass, p'
    and q' the two distributions inside the tail; so by P * (log Q - log q) at most, Q the student's tail mass and q its
    smallest probability there. Raises RuntimeError, torch's own, for shapes that do not fit. Source: the log-sum
    inequality.

    >>> rd.losses.top_k_kl_divergence(torch.zeros(4), rd.losses.top_k_of(torch.zeros(4), 2))
    tensor(0.)
    """
    log_probs = log_softmax(widen(student_logits), dim=-1)
    kept = log_probs.gather(-1, teacher.ids)
    head = (teacher.log_probs.exp() * (teacher.log_probs - kept)).sum(dim=-1)
    mass = teacher.log_tail.exp()
    # Where no id is left over both logarithms are infinite, and the product is 0.
    between = teacher.log_tail.clamp(min=_LEAST) - _log_tail(log_probs, teacher.ids).clamp(min=_LEAST)
    return head + mass * between


def _log_tail(log_probs: Tensor, ids: Tensor) -> Tensor:
    """Log-probability (...) of all ids but these."""
    return log_probs.scatter(-1, ids, float("-inf")).logsumexp(dim=-1)
