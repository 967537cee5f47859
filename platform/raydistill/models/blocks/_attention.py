"""Attention over packed states: the one place where rows are padded."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.layout import Layout

SUPPORTED = "sdpa"
"""The attention of transformers that packed states are handed on to."""
_PACKED = "raydistill_packed"


@contextmanager
def packed(config: Any) -> Iterator[None]:
    """Inside, blocks of the model with this configuration take states (1, R, D) and their ``layout``.

    The configuration is as before afterwards, so that the model still runs and saves plainly. One thread at a time
    runs a model.
    """
    before = config._attn_implementation
    config._attn_implementation = _registered()
    try:
        yield
    finally:
        config._attn_implementation = before


@cache
def _registered() -> str:
    """Name under which transformers finds the packed attention from now on; harmless to all who do not ask for it."""
    # Imported here: it imports every library that transformers can work with, DeepSpeed too.
    from transformers import AttentionInterface

    AttentionInterface.register(_PACKED, _attend)
    return _PACKED


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of queries (1, H, R, d), keys and values (1, H', R, d); returns (1, R, H, d) and no weights.

    ``attention_mask`` is over padded rows. The rest is for transformers' own function: grouped heads, scale, dropout.
    """
    from transformers import AttentionInterface

    attend = AttentionInterface()[SUPPORTED]
    rows = [layout.spread(states) for states in (query, key, value)]
    output, _ = attend(module, *rows, attention_mask, **options)
    return layout.gather(output), None


def padding_mask(layout: Layout) -> Tensor:
    """Bool mask (B, 1, 1, T) over heads and queries that hides padding, a view.

    Never dropped where all tokens are real: finding that out would wait for the device.
    """
    return layout.mask[:, None, None, :]


def causal_mask(layout: Layout, *, window: int | None = None) -> Tensor | None:
    """Bool mask (1, 1, T, T) that hides later tokens, and those ``window`` or more before.

    None without a window, which runs the faster causal kernel. Padding needs no mask: it stands on the right of its
    row, where no real token looks.
    """
    if window is None or window >= layout.width:
        return None
    position = torch.arange(layout.width, device=layout.mask.device)
    distance = position[:, None] - position
    return ((distance >= 0) & (distance < window))[None, None]
