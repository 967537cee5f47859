"""Attention of packed rows by the kernel for rows of unequal lengths, which needs no padding, where there is one.

It is the flash kernel of PyTorch, on GPUs in half precision. ``torch.nn.attention.varlen`` calls the same operator, but
has no dropout.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.backends.cuda import SDPAParams, can_use_flash_attention

from raydistill.layout import Layout

_ALIGNMENT = 8
"""What divides the width of a head that the kernel takes as it is."""


class Sees(NamedTuple):
    """How many tokens before and after itself a token sees in its row, all of them for -1."""

    before: int
    after: int


def fits(query: Tensor, key: Tensor, value: Tensor, layout: Layout, *, dropout: float) -> bool:
    """Whether the kernel takes queries (1, H, R, d), keys and values (1, H', R, d) of these states.

    Asks the device for nothing.
    """
    # With padding among the states rows are spread already, and what is computed of it would be something else.
    aligned = query.shape[-1] % _ALIGNMENT == 0
    return _has_kernel(query, key, value, dropout) and aligned and not layout.has_padding


def _has_kernel(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> bool:
    """Whether PyTorch has its own flash kernel for such tensors here, told by their device, types, widths and heads."""
    if query.device.type != "cuda" or torch.version.hip is not None:
        return False
    is_grouped = query.shape[1] != key.shape[1]
    return can_use_flash_attention(SDPAParams(query, key, value, None, dropout, False, is_grouped))


def attend(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, sees: Sees, *, scaling: float | None, dropout: float
) -> Tensor:
    """Attention (1, R, H, d) within rows, of queries (1, H, R, d), keys and values (1, H', R, d) that ``fits`` takes.

    H' divides H. ``scaling``: factor of the scores, None for one over the root of d.
    """
    rows = [states.squeeze(0).transpose(0, 1) for states in (query, key, value)]
    # The longest row is nowhere but on the device; the width of the rows is as good a limit.
    output, *_ = torch.ops.aten._flash_attention_forward(
        *rows,
        layout.starts,
        layout.starts,
        layout.width,
        layout.width,
        dropout,
        sees == (-1, 0),
        False,
        scale=scaling,
        window_size_left=sees.before,
        window_size_right=sees.after,
    )
    return output.unsqueeze(0)
