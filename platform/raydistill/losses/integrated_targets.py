"""Targets over all classes from teachers that know some of them each: Li et al. 2022, as in lancopku/MUKI @ 703fd17."""

from collections.abc import Sequence

import torch
from torch import Tensor

from raydistill.losses.reduction import widen

_SMALLEST_MARGIN = 1e-6


def concatenated_target(
    logits: Sequence[Tensor], classes: Sequence[Tensor], num_classes: int, *, temperature: float
) -> Tensor:
    """One softmax over the logits of all teachers side by side; entries of the same class are added.

    Shapes: (B, C_t) and (C_t,) int64, the class of each entry, for each teacher; returns probabilities (B,
    num_classes). Deviation: the published code cannot index classes that several teachers know. Raises RuntimeError,
    torch's own, for shapes that do not fit. Source: Li et al. 2022, MUKI.

    >>> classes = torch.tensor([0]), torch.tensor([1, 2, 3])
    >>> rd.losses.concatenated_target([torch.zeros(1, 1), torch.zeros(1, 3)], classes, 4, temperature=1)
    tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    entries = torch.softmax(torch.cat([widen(one) for one in logits], dim=1) / temperature, dim=-1)
    return entries.new_zeros(entries.shape[0], num_classes).index_add(1, torch.cat([*classes]), entries)


def mixed_target(
    logits: Sequence[Tensor], classes: Sequence[Tensor], num_classes: int, *, weights: Tensor, temperature: float
) -> Tensor:
    """The sum over teachers of each one's own softmax times its weight; a teacher has 0 at classes it does not know.

    Shapes: as above, and weights (B, teachers), rows that sum to 1; returns probabilities (B, num_classes). Raises
    ValueError for another number of weights than teachers. Source: Li et al. 2022, MUKI.

    >>> classes, weights = (torch.tensor([0, 1]), torch.tensor([2, 3])), torch.tensor([[1.0, 0.0]])
    >>> rd.losses.mixed_target([torch.zeros(1, 2)] * 2, classes, 4, weights=weights, temperature=1)
    tensor([[0.5000, 0.5000, 0.0000, 0.0000]])
    """
    parts = [
        weight[:, None] * torch.softmax(widen(one) / temperature, dim=-1)
        for one, weight in zip(logits, weights.unbind(dim=1), strict=True)
    ]
    entries = torch.cat(parts, dim=1)
    return entries.new_zeros(entries.shape[0], num_classes).index_add(1, torch.cat([*classes]), entries)


def soft_choice(scores: Tensor, *, temperature: float) -> Tensor:
    """softmax(scores / temperature) over teachers.

    Shapes: (B, teachers); returns (B, teachers). Weights without a unit. Raises RuntimeError, torch's own, for shapes
    that do not fit. Source: Li et al. 2022, MUKI.

    >>> rd.losses.soft_choice(torch.ones(1, 2), temperature=0.2)
    tensor([[0.5000, 0.5000]])
    """
    return torch.softmax(widen(scores) / temperature, dim=1)


def hard_choice(scores: Tensor) -> Tensor:
    """1 for the teacher with the highest score of a row, the first one in a tie, and 0 for the others.

    Shapes: (B, teachers); returns (B, teachers). Deviation: the published code fails for a single row. Weights without
    a unit. Raises RuntimeError, torch's own, for shapes that do not fit. Source: Li et al. 2022, MUKI.

    >>> rd.losses.hard_choice(torch.tensor([[0.1, 0.9]]))
    tensor([[0., 1.]])
    """
    return torch.zeros_like(widen(scores)).scatter(1, scores.argmax(dim=1, keepdim=True), 1.0)


def score_margin(scores: Tensor) -> Tensor:
    """Difference between the two highest scores of a row, plus 1e-6, as published.

    Shapes: (B, teachers) with two teachers or more; returns (B,), positive. In the unit of the scores. Raises
    RuntimeError, torch's own, for a single teacher. Source: Li et al. 2022, MUKI.

    >>> rd.losses.score_margin(torch.tensor([[0.25, 0.75]])) > 0.5
    tensor([True])
    """
    first, second = widen(scores).topk(2, dim=1).values.unbind(dim=1)
    return first - second + _SMALLEST_MARGIN


def agreement(logits: Tensor, target: Tensor) -> Tensor:
    """1 where the top-1 class of a row is its target's, else 0, without gradient.

    Shapes: (B, classes) each; returns (B,) float64, so that a fraction of rows never rounds to more than 1. It has no
    unit. Raises RuntimeError, torch's own, for shapes that do not fit. Source: none, it is a comparison.

    >>> rd.losses.agreement(torch.eye(2), torch.eye(2).flip(0))
    tensor([0., 0.], dtype=torch.float64)
    """
    return (logits.argmax(dim=1) == target.argmax(dim=1)).double()
