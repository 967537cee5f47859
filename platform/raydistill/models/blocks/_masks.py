"""Attention masks as the blocks of transformers take them, made without asking the device for a value."""

import torch
from torch import Tensor


def padding_bias(attention_mask: Tensor, dtype: torch.dtype, *, attention: str) -> Tensor:
    """Mask (B, 1, 1, T) over heads and queries that hides padding; ``attention_mask`` is bool (B, T).

    A view for ``sdpa``. Never dropped where all tokens are real: finding that out would wait for the device.
    """
    return _as_taken(attention_mask[:, None, None, :], dtype, attention)


def causal_bias(hidden: Tensor, *, attention: str, window: int | None = None) -> Tensor | None:
    """Mask (1, 1, T, T) that hides later tokens, and those ``window`` or more before; states are (B, T, D).

    None for ``sdpa`` without a window, which then runs its faster causal kernel. Padding needs no mask: it stands on
    the right of its row, where no real token looks.
    """
    length = hidden.shape[1]
    if window is None or window > length:
        window = length
    if attention == "sdpa" and window == length:
        return None
    position = torch.arange(length, device=hidden.device)
    distance = position[:, None] - position
    keep = (distance >= 0) & (distance < window)
    return _as_taken(keep[None, None], hidden.dtype, attention)


def _as_taken(keep: Tensor, dtype: torch.dtype, attention: str) -> Tensor:
    """A bool mask for ``sdpa``, else one that is added to the scores."""
    if attention == "sdpa":
        return keep
    return torch.zeros_like(keep, dtype=dtype).masked_fill(~keep, torch.finfo(dtype).min)
