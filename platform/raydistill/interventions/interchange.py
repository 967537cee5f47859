"""Reading and writing activations at places and column slices; differentiable, inputs stay as they are."""

from collections.abc import Sequence

import torch
from torch import Tensor


def read(states: Tensor, places: Tensor, columns: Sequence[slice]) -> Tensor:
    """Activations at some places and columns.

    Shapes: states (R, D), places (P,) numbers of rows of ``states``; returns (P, C), the slices of ``columns`` side
    by side, C columns in all.
    """
    rows = states.index_select(0, places)
    return torch.cat([rows[:, part] for part in columns], dim=1)


def write(states: Tensor, places: Tensor, columns: Sequence[slice], values: Tensor) -> Tensor:
    """A copy of the states with ``values`` at some places and columns.

    Shapes: states (R, D), places (P,) distinct, values (P, C) as ``read`` returns them; returns (R, D). Gradient
    flows into ``values`` and into what is not overwritten.
    """
    rows = states.index_select(0, places)
    start = 0
    for part in columns:
        width = part.stop - part.start
        rows[:, part] = values[:, start : start + width].to(rows.dtype)
        start += width
    return states.index_copy(0, places, rows)
