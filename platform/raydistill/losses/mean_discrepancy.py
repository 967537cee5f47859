"""How far two sets of vectors are apart as distributions: maximum mean discrepancy (Gretton et al. 2012)."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from raydistill.losses.reduction import widen

_SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Bandwidths of the kernels, as factors of the mean squared distance."""
_SMALLEST_DISTANCE = 1e-12
_SMALLEST_NORM = 1e-12
_SMALLEST_VARIANCE = 1e-30
"""Keeps vectors that are all the same from a division by zero."""


def mmd(first: Tensor, second: Tensor, *, normalized: bool = True, sigmas: Sequence[float] | None = None) -> Tensor:
    """Squared discrepancy of two sets of N vectors under a sum of Gaussian kernels, at least 0.

    Shapes: (N, ...) each, flattened to (N, D); returns (). It is the biased estimate: pairs of a vector with itself
    count. With ``normalized`` each vector is divided by its length first. The kernels have the standard deviations
    ``sigmas``, by default five around the mean squared distance of all pairs, which carries no gradient. Computed in
    float32 or wider, under autocast too: distances are differences of large products. Source: CFL (Luo et al. 2019), as
    in MUKI's code. Raises ValueError if the shapes differ. It has no unit.

    >>> rd.losses.mmd(torch.eye(4), torch.eye(4))
    tensor(0.)
    """
    if first.shape != second.shape:
        raise ValueError(f"first has shape {tuple(first.shape)}, second {tuple(second.shape)}; both must be the same")
    with _without_autocast(first.device.type):
        sets = [widen(vectors).flatten(1) for vectors in (first, second)]
        if normalized:
            sets = [normalize(vectors, dim=1, eps=_SMALLEST_NORM) for vectors in sets]
        own, other, between = (_squared_distances(*pair) for pair in ([sets[0]] * 2, [sets[1]] * 2, sets))
        rates = _rates(own, other, between) if sigmas is None else [1 / (2 * sigma**2) for sigma in sigmas]
        within = _kernel_mean(own, rates) + _kernel_mean(other, rates)
        return (within - 2 * _kernel_mean(between, rates)).relu()


def _without_autocast(device_type: str) -> AbstractContextManager[Any]:
    has_autocast = torch.amp.is_autocast_available(device_type)
    return torch.autocast(device_type, enabled=False) if has_autocast else nullcontext()


def _squared_distances(first: Tensor, second: Tensor) -> Tensor:
    """(N, N) squared distances of vectors (N, D), by their products; rounding may leave them below 0."""
    squares = first.square().sum(dim=1)[:, None] + second.square().sum(dim=1)
    return squares - 2 * first @ second.T


def _rates(own: Tensor, other: Tensor, between: Tensor) -> list[Tensor]:
    """1 / (2 sigma²) of each kernel, without gradient."""
    variance = ((own + other + 2 * between) / 4).detach().mean().clamp_min(_SMALLEST_VARIANCE)
    return [1 / (2 * scale * variance) for scale in _SCALES]


def _kernel_mean(distances: Tensor, rates: Sequence[Tensor | float]) -> Tensor:
    """Mean over pairs of the sum of the kernels."""
    kept = distances.clamp_min(_SMALLEST_DISTANCE)
    return torch.stack([(-kept * rate).exp().mean() for rate in rates]).sum()
