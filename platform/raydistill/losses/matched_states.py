"""Squared error of a teacher's and a student's normalized hidden states, one value a packed state or a row.

Sun et al. 2019, "Patient Knowledge Distillation", as dynamic distillation applies it to all tokens.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from raydistill.layout import Layout
from raydistill.losses.reduction import widen

_SMALLEST_NORM = 1e-12


def error_over_hidden(student: Tensor, teacher: Tensor, layout: Layout) -> Tensor:
    """Mean squared difference of states of length 1.

    Shapes: (R, D) each, packed; returns (R,). ``layout`` has no say. It has no unit. Raises RuntimeError, torch's own,
    for shapes that do not fit. Source: Sun et al. 2019.

    >>> rd.losses.error_over_hidden(torch.eye(2), torch.eye(2), None)
    tensor([0., 0.])
    """
    first, second = (normalize(widen(states), dim=-1, eps=_SMALLEST_NORM) for states in (student, teacher))
    return (first - second).square().mean(dim=-1)


def error_over_tokens(student: Tensor, teacher: Tensor, layout: Layout) -> Tensor:
    """Mean squared difference of states each of whose dimensions has length 1 over the states of a row.

    Shapes: (R, D) each, packed; returns (R,). ``layout`` says which states are of one row. It has no unit. Raises
    RuntimeError, torch's own, for shapes that do not fit. Source: Li et al. 2021.

    >>> from raydistill.layout import Layout
    >>> layout = Layout.of(torch.ones(1, 2, dtype=torch.bool), torch.arange(2))
    >>> rd.losses.error_over_tokens(torch.eye(2), torch.eye(2), layout)
    tensor([0., 0.])
    """
    first, second = (_unit_over_tokens(widen(states), layout) for states in (student, teacher))
    return (first - second).square().mean(dim=-1)


def _unit_over_tokens(states: Tensor, layout: Layout) -> Tensor:
    """States (R, D) over the norm of their row's states, for each dimension."""
    norms = torch.linalg.vector_norm(by_row(states, layout), dim=1).clamp_min(_SMALLEST_NORM)
    return states / norms.index_select(0, layout.row)


def sum_by_row(values: Tensor, layout: Layout) -> Tensor:
    """Packed values (R,) to the sum (B,) of each row's."""
    return by_row(values, layout).sum(dim=1)


def by_row(values: Tensor, layout: Layout) -> Tensor:
    """Packed values (R, ...) to (B, T, ...), 0 where there is no state."""
    places = values.new_zeros(layout.num_rows * layout.width, *values.shape[1:])
    return places.index_copy(0, layout.index, values).unflatten(0, (layout.num_rows, layout.width))
