"""Divergences between a teacher's and a student's distribution, with their gradients in the student's logits.

p is the teacher's, q the student's distribution. Each function takes both as log-probabilities and returns the
divergence and its slope, the product of q and the derivative in q. The slope is bounded where q vanishes, and the
gradient in the logits follows from it: ``logits_gradient``. Buckets of ids, such as a tail, may stand for single ids.

Hinton et al. 2015 (forward KL); Gu et al. 2024, "MiniLLM" (reverse KL); Agarwal et al. 2024, "On-Policy Distillation of
Language Models" (GKD, generalized JSD); Ko et al. 2024, "DistiLLM" (skew KL and skew reverse KL); Wen et al. 2023,
"f-Divergence Minimization for Sequence-Level Knowledge Distillation" (total variation).
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

Divergence = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes log q and log p (..., V); returns the divergence (...) in nats and its slope (..., V)."""

NAMES = ("forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl", "tvd")
"""What ``divergence_of`` knows."""


def divergence_of(name: str, *, beta: float = 0.5, skew: float = 0.1) -> Divergence:
    """The function of a name among ``NAMES``.

    Shapes: it takes log q and log p (..., V) and returns the divergence (...), in nats, and its slope (..., V).
    ``beta`` is the teacher's share of the mixture of ``jsd``, ``skew`` the share of the first distribution in the
    second one of both skewed divergences. Raises ValueError for another name, or where the one in use is outside [0, 1)
    or, for ``beta``, [0, 1]. Source: the papers that the module names.

    >>> log_q, log_p = torch.zeros(2).log_softmax(-1), torch.zeros(2).log_softmax(-1)
    >>> value, slope = rd.losses.divergence_of("reverse_kl")(log_q, log_p)
    >>> value
    tensor(0.)
    """
    if name not in NAMES:
        raise ValueError(f"divergence is {name!r}; choices: {', '.join(NAMES)}")
    if name == "jsd" and not 0 <= beta <= 1:
        raise ValueError(f"beta is {beta}; it must be between 0 and 1")
    if name.startswith("skew") and not 0 <= skew < 1:
        raise ValueError(f"skew is {skew}; it must be at least 0 and less than 1")
    functions: dict[str, Divergence] = {
        "forward_kl": forward_kl,
        "reverse_kl": reverse_kl,
        "jsd": partial(generalized_jsd, beta=beta),
        "skew_kl": partial(skew_kl, skew=skew),
        "skew_reverse_kl": partial(skew_reverse_kl, skew=skew),
        "tvd": total_variation,
    }
    return functions[name]


def logits_gradient(log_q: Tensor, slope: Tensor) -> Tensor:
    """Gradient (..., V) of a divergence in the logits that q is the softmax of."""
    return slope - log_q.exp() * slope.sum(dim=-1, keepdim=True)


def forward_kl(log_q: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    """KL(p || q)."""
    p = log_p.exp()
    return (p * (log_p - log_q)).sum(dim=-1), -p


def reverse_kl(log_q: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    """KL(q || p)."""
    slope = log_q.exp() * (log_q - log_p)
    return slope.sum(dim=-1), slope


def generalized_jsd(log_q: Tensor, log_p: Tensor, *, beta: float) -> tuple[Tensor, Tensor]:
    """``beta * KL(p || m) + (1 - beta) * KL(q || m)`` with ``m = beta * p + (1 - beta) * q``.

    As in TRL, ``beta`` 0 is the forward and 1 the reverse divergence, which are its limits up to a factor.
    """
    if beta == 0:
        return forward_kl(log_q, log_p)
    if beta == 1:
        return reverse_kl(log_q, log_p)
    log_m = _mixture(log_p, log_q, beta)
    of_student = (1 - beta) * log_q.exp() * (log_q - log_m)
    of_teacher = beta * log_p.exp() * (log_p - log_m)
    return (of_teacher + of_student).sum(dim=-1), of_student


def skew_kl(log_q: Tensor, log_p: Tensor, *, skew: float) -> tuple[Tensor, Tensor]:
    """KL(p || skew * p + (1 - skew) * q)."""
    log_m = _mixture(log_p, log_q, skew)
    p = log_p.exp()
    return (p * (log_p - log_m)).sum(dim=-1), -(1 - skew) * (log_p + log_q - log_m).exp()


def skew_reverse_kl(log_q: Tensor, log_p: Tensor, *, skew: float) -> tuple[Tensor, Tensor]:
    """KL(q || skew * q + (1 - skew) * p)."""
    log_m = _mixture(log_q, log_p, skew)
    of_each = log_q.exp() * (log_q - log_m)
    return of_each.sum(dim=-1), of_each - skew * (2 * log_q - log_m).exp()


def total_variation(log_q: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    """Half the sum of absolute differences of probabilities, between 0 and 1."""
    q = log_q.exp()
    difference = q - log_p.exp()
    return difference.abs().sum(dim=-1) / 2, q * difference.sign() / 2


def _mixture(log_first: Tensor, log_second: Tensor, share: float) -> Tensor:
    """Logarithm of ``share * first + (1 - share) * second``."""
    if share == 0:
        return log_second
    return torch.logaddexp(log_first + math.log(share), log_second + math.log1p(-share))
