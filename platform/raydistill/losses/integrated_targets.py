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

    Shapes: (B, C_t) and (C_t,) int64, the class of each entry, for each teacher; returns probabilities
    (B, num_classes). Deviation: the published code cannot index classes that several teachers know.
    """
    entries = torch.softmax(torch.cat([widen(one) for one in logits], dim=1) / temperature, dim=-1)
    return entries.new_zeros(entries.shape[0], num_classes).index_add(1, torch.cat([*classes]), entries)


def mixed_target(
    logits: Sequence[Tensor], classes: Sequence[Tensor], num_classes: int, *, weights: Tensor, temperature: float
) -> Tensor:
    """The sum over teachers of each one's own softmax times its weight; a teacher has 0 at classes it does not know.

    Shapes: as above, and weights (B, teachers), rows that sum to 1; returns probabilities (B, num_classes).
    """
    parts = [
        weight[:, None] * torch.softmax(widen(one) / temperature, dim=-1)
        for one, weight in zip(logits, weights.unbind(dim=1), strict=True)
    ]
    entries = torch.cat(parts, dim=1)
    return entries.new_zeros(entries.shape[0], num_classes).index_add(1, torch.cat([*classes]), entries)


def soft_choice(scores: Tensor, *, temperature: float) -> Tensor:
    """softmax(scores / temperature) over teachers.

    Shapes: (B, teachers); returns (B, teachers).
    """
    return torch.softmax(widen(scores) / temperature, dim=1)


def hard_choice(scores: Tensor) -> Tensor:
    """1 for the teacher with the highest score of a row, the first one in a tie, and 0 for the others.

    Shapes: (B, teachers); returns (B, teachers). Deviation: the published code fails for a single row.
    """
    return torch.zeros_like(widen(scores)).scatter(1, scores.argmax(dim=1, keepdim=True), 1.0)


def score_margin(scores: Tensor) -> Tensor:
    """Difference between the two highest scores of a row, plus 1e-6, as published.

    Shapes: (B, teachers) with two teachers or more; returns (B,), positive.
    """
    first, second = widen(scores).topk(2, dim=1).values.unbind(dim=1)
    return first - second + _SMALLEST_MARGIN


def agreement(logits: Tensor, target: Tensor) -> Tensor:
    """1 where the top-1 class of a row is its target's, else 0, without gradient.

    Shapes: (B, classes) each; returns (B,) float64, so that a fraction of rows never rounds to more than 1.
    """
    return (logits.argmax(dim=1) == target.argmax(dim=1)).double()
