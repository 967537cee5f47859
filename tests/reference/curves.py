"""Loss curves side by side: how far two are apart, and how far those of several seeds."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

WINDOW = 20
"""Steps that are averaged, since batches differ."""


def smoothed(losses: ArrayLike) -> NDArray[np.float64]:
    """Losses (..., steps) as means of ``WINDOW`` steps (..., steps / WINDOW)."""
    values = np.asarray(losses, dtype=np.float64)
    means: NDArray[np.float64] = values.reshape(*values.shape[:-1], -1, WINDOW).mean(axis=-1)
    return means


def distance(one: ArrayLike, other: ArrayLike) -> float:
    """Mean absolute difference of two smoothed curves, or of several in pairs."""
    return float(np.abs(smoothed(one) - smoothed(other)).mean())


def spread(curves: ArrayLike) -> float:
    """Mean sample standard deviation of several seeds' smoothed curves (seeds, steps)."""
    return float(smoothed(curves).std(axis=0, ddof=1).mean())
