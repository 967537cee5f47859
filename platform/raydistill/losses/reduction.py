"""Sums over rows in a dtype that is wide enough, divided by a count that the caller states."""

import torch
from torch import Tensor


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums are kept in: float64 for float64, float32 for everything narrower."""
    return torch.promote_types(dtype, torch.float32)


def widen(values: Tensor) -> Tensor:
    """``values`` in the dtype that sums are kept in; a float32 or float64 tensor comes back as it is."""
    return values.to(accumulation_dtype(values.dtype))


def mean_over(row_losses: Tensor, denominator: Tensor) -> Tensor:
    """Sum of a per-row loss divided by a 0-d count, which may cover more rows than these.

    Shapes: (...,) and (); returns (). The sum is taken in float32 or wider. In the unit of the losses. Raises
    RuntimeError, torch's own, for shapes that do not fit. Source: none, it is a mean.

    >>> rd.losses.mean_over(torch.ones(3), torch.tensor(6))
    tensor(0.5000)
    """
    total = widen(row_losses).sum()
    return total / denominator.to(total.dtype)
