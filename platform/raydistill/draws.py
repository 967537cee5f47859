"""Random draws as pure functions of keys.

Every draw of the data path is a hash of what it belongs to (a stream's name, seed, epoch, row id, position),
never of arrival order, so results do not depend on workers, micro-batches or restarts. The hash is the
finalizer of SplitMix64 (Steele, Lea and Flood 2014), chained over the keys.
"""

import itertools
import zlib
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_ALL_BITS = 2**64 - 1
_PIECE = 2**20


def _mix(state: Any) -> Any:
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return state ^ (state >> np.uint64(31))


@lru_cache(maxsize=256)
def _start(stream: str, keys: tuple[int, ...]) -> np.uint64:
    """The hash of a stream's name and its leading scalar keys, which are the same for many calls."""
    with np.errstate(over="ignore"):
        state = _mix(np.uint64(zlib.crc32(stream.encode())) + _GAMMA)
        for key in keys:
            state = _mix((state ^ np.uint64(key & _ALL_BITS)) + _GAMMA)
    return np.uint64(state)


def hash64(stream: str, *keys: ArrayLike) -> NDArray[np.uint64]:
    """64 hash bits for each combination of integer keys, broadcast against each other.

    ``stream`` names the purpose, so that two purposes with equal keys draw independently.
    """
    scalars = tuple(itertools.takewhile(lambda key: isinstance(key, int), keys))
    state = np.asarray(_start(stream, scalars))
    with np.errstate(over="ignore"):
        for key in keys[len(scalars) :]:
            state = _mix((state ^ np.asarray(key).astype(np.int64, copy=False).view(np.uint64)) + _GAMMA)
    return np.asarray(state)


def uniform(stream: str, *keys: ArrayLike) -> NDArray[np.float64]:
    """Uniform float64 in [0, 1), 53 bits, one for each broadcast combination of keys."""
    return (hash64(stream, *keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def integers(stream: str, *keys: ArrayLike, high: ArrayLike) -> NDArray[np.int64]:
    """Uniform int64 in [0, high), ``high`` >= 1 broadcast against the keys."""
    return np.floor(uniform(stream, *keys) * np.asarray(high)).astype(np.int64)


def permutation(stream: str, *keys: int, size: int) -> NDArray[np.int64]:
    """A permutation of ``range(size)`` that depends on the stream and the scalar keys alone."""
    return np.argsort(hash64(stream, *keys, np.arange(size)), kind="stable").astype(np.int64)


def first_of_permutation(stream: str, *keys: int, size: int, count: int) -> NDArray[np.int64]:
    """The first ``count`` of ``permutation``, found in pieces, so that memory depends on ``count`` alone."""
    first, hashes = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.uint64)
    for start in range(0, size, _PIECE):
        piece = np.arange(start, min(start + _PIECE, size))
        first, hashes = np.concatenate([first, piece]), np.concatenate([hashes, hash64(stream, *keys, piece)])
        least = np.argsort(hashes, kind="stable")[:count]
        first, hashes = first[least], hashes[least]
    return first


def exponential(stream: str, *keys: ArrayLike) -> NDArray[np.float64]:
    """Exponential(1) float64 > 0; dividing by weights and taking the smallest k samples without replacement."""
    return -np.log1p(-np.maximum(uniform(stream, *keys), 2.0**-54))
