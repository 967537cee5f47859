"""PyTorch's flash kernel for rows of unequal lengths, which CPUs lack, row by row from its formula."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class Flash:
    """Stands where the kernel stands, with its gradient; keeps the options that it was called with."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        starts: Tensor,
        key_starts: Tensor,
        max_query: int,
        max_key: int,
        dropout: float,
        is_causal: bool,
        _returns_mask: bool,
        *,
        scale: float | None = None,
        window_size_left: int | None = None,
        window_size_right: int | None = None,
        **_: Any,
    ) -> tuple[Tensor, ...]:
        assert starts.dtype == key_starts.dtype == torch.int32
        assert starts[-1] == len(query) == len(key)
        assert starts.diff().max() <= min(max_query, max_key)
        assert is_causal == ((window_size_left, window_size_right) == (-1, 0))
        self.calls.append({"dropout": dropout, "window": (window_size_left, window_size_right)})
        window = (window_size_left, window_size_right)
        groups = query.shape[1] // key.shape[1]
        key, value = (one.repeat_interleave(groups, dim=1) for one in (key, value))
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        output = torch.empty_like(query)
        for row, weights in rows_and_weights(query, key, starts, window=window, scale=scale):
            output[row] = torch.einsum("hqk,khd->qhd", weights, value[row])
        empty = query.new_empty(0)
        return output, query.new_zeros(query.shape[1], len(query)), empty, empty, empty

    def backward(
        self, upstream: Tensor, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any
    ) -> tuple[Tensor, ...]:
        _output, _sums, starts = rest[:3]
        window = (options["window_size_left"], options["window_size_right"])
        groups = query.shape[1] // key.shape[1]
        keys, values = (one.repeat_interleave(groups, dim=1) for one in (key, value))
        scale = query.shape[-1] ** -0.5 if options["scale"] is None else options["scale"]
        found = [torch.empty_like(query) for _ in range(3)]
        # From the formula: PyTorch differentiates nothing that runs inside of an operator.
        for row, weights in rows_and_weights(query, keys, starts, window=window, scale=scale):
            found[2][row] = torch.einsum("hqk,qhd->khd", weights, upstream[row])
            slope = torch.einsum("qhd,khd->hqk", upstream[row], values[row])
            slope = scale * weights * (slope - (slope * weights).sum(dim=-1, keepdim=True))
            found[0][row] = torch.einsum("hqk,khd->qhd", slope, keys[row])
            found[1][row] = torch.einsum("hqk,qhd->khd", slope, query[row])
        of_query, *others = found
        return of_query, *(one.unflatten(1, (-1, groups)).sum(dim=2) for one in others)


def rows_and_weights(
    query: Tensor, key: Tensor, starts: Tensor, *, window: tuple[int, int], scale: float
) -> Iterator[tuple[slice, Tensor]]:
    """Each row of queries (R, H, d) and keys (R, H, d), and its weights (H, T, T)."""
    before, after = (len(query) if size < 0 else size for size in window)
    for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        row, place = slice(start, stop), torch.arange(stop - start)
        distance = place[:, None] - place
        seen = (distance <= before) & (-distance <= after)
        scores = torch.einsum("qhd,khd->hqk", query[row], key[row]) * scale
        yield row, scores.masked_fill(~seen, float("-inf")).softmax(dim=-1)


@contextmanager
def flash_on_cpu() -> Iterator[Flash]:
    """Inside, the operator of PyTorch runs on CPUs, in any type."""
    flash = Flash()
    library = torch.library.Library("aten", "IMPL")
    library.impl("_flash_attention_forward", flash.forward, "CPU")
    library.impl("_flash_attention_backward", flash.backward, "CPU")
    try:
        yield flash
    finally:
        library._destroy()
