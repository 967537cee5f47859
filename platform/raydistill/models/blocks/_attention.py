"""Attention over packed states: the one place where rows are padded, if no kernel takes them as they are."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.layout import Layout
from raydistill.models.blocks import _varlen
from raydistill.models.blocks._varlen import Sees

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


def keep_apart() -> None:
    """Let blocks that are compiled call packed attention as it is; the same values for all who compile nothing."""
    from transformers import AttentionInterface

    AttentionInterface.register(_registered(), torch.compiler.disable(_attend))


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout,
    sees: Sees | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of queries (1, H, R, d), keys and values (1, H', R, d); returns (1, R, H, d) and no weights.

    ``attention_mask`` is over padded rows, ``sees`` says the same of rows that are not padded; without it they are. The
    rest is for transformers' own function: grouped heads, scale.
    """
    is_capped = options.get("softcap") is not None
    if sees is not None and not is_capped and _varlen.fits(query, key, value, layout, dropout=dropout):
        scaling = options.get("scaling")
        return _varlen.attend(query, key, value, layout, sees, scaling=scaling, dropout=dropout), None
    # Imported here: see above.
    from transformers import AttentionInterface

    options["dropout"] = dropout
    rows = [layout.spread(states) for states in (query, key, value)]
    if "softcap" in options:
        output = _capped(module, *rows, mask=attention_mask, **options)
    else:
        output, _ = AttentionInterface()[SUPPORTED](module, *rows, attention_mask, **options)
    return layout.gather(output), None


def _capped(
    module: Any,
    *rows: Tensor,
    mask: Tensor | None,
    softcap: float | None,
    scaling: float,
    dropout: float,
    **_: Any,
) -> Tensor:
    """Causal attention of padded rows whose scores have a cap, as ``eager_attention_forward`` of Gemma 2 does it."""
    query, *others = rows
    key, value = (one.repeat_interleave(module.num_key_value_groups, dim=1) for one in others)
    scores = query @ key.transpose(-1, -2) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is None:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return (nn.functional.dropout(weights, dropout, training=module.training) @ value).transpose(1, 2)


def weighted_values(scores: Tensor, mask: Tensor, value: Tensor, dropout: nn.Module) -> Tensor:
    """Attention (B, T, H, d) of padded rows by scores (B, H, T, T), for blocks that make these by themselves."""
    weights = torch.softmax(scores.masked_fill(~mask, torch.finfo(scores.dtype).min), dim=-1)
    return (dropout(weights) @ value).transpose(1, 2)


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


def sees_all(layout: Layout) -> dict[str, Any]:
    """What blocks take whose tokens see the whole row."""
    return {"attention_mask": padding_mask(layout), "sees": Sees(-1, -1)}


def sees_earlier(layout: Layout, *, window: int | None = None) -> dict[str, Any]:
    """What blocks take whose tokens see none after them, and themselves and those before, ``window`` in all."""
    before = -1 if window is None else window - 1
    return {"attention_mask": causal_mask(layout, window=window), "sees": Sees(before, 0)}


def sees_near(layout: Layout, *, reach: int) -> dict[str, Any]:
    """What blocks take whose tokens see those up to ``reach`` places away, before or after."""
    return {"attention_mask": padding_mask(layout) & window_mask(layout, reach=reach), "sees": Sees(reach, reach)}


def window_mask(layout: Layout, *, reach: int) -> Tensor:
    """Bool mask (1, 1, T, T) that hides tokens more than ``reach`` places away, before or after."""
    position = torch.arange(layout.width, device=layout.mask.device)
    return ((position[:, None] - position).abs() <= reach)[None, None]
