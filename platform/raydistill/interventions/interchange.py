"""Reading and writing activations at flat positions and column slices; differentiable, inputs stay as they are."""

from collections.abc import Sequence

import torch
from torch import Tensor


def read(hidden_states: Tensor, positions: Tensor, columns: Sequence[slice]) -> Tensor:
    """Activations at some positions and columns.

    Shapes: hidden_states (B, T, D), positions (P,) flat indices ``row * T + position``; returns (P, C), the slices
    of ``columns`` side by side, C columns in all.
    """
    rows = hidden_states.flatten(0, 1).index_select(0, positions)
    return torch.cat([rows[:, part] for part in columns], dim=1)


def write(hidden_states: Tensor, positions: Tensor, columns: Sequence[slice], values: Tensor) -> Tensor:
    """A copy of the hidden states with ``values`` at some positions and columns.

    Shapes: hidden_states (B, T, D), positions (P,) flat and distinct, values (P, C) as ``read`` returns them;
    returns (B, T, D). Gradient flows into ``values`` and into what is not overwritten.
    """
    flat = hidden_states.flatten(0, 1)
    rows = flat.index_select(0, positions)
    start = 0
    for part in columns:
        width = part.stop - part.start
        rows[:, part] = values[:, start : start + width].to(rows.dtype)
        start += width
    return flat.index_copy(0, positions, rows).view_as(hidden_states)
