"""How long the rows of a corpus are, told shard by shard, so that nobody holds the lengths of all rows."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raydistill.data.sealed_table import Recent

_KEPT_ROWS = 2**20
"""Lengths that are kept, 4 bytes each, or those of one shard that has more rows."""


class Lengths:
    """Length of each row, special tokens included, indexed as an array is; a shard's are read when first asked for.

    ``read`` gives those of a shard; ``shard_offsets`` the first row of each shard, and the number of rows at the end.
    """

    def __init__(self, read: Callable[[int], NDArray[np.int32]], shard_offsets: NDArray[np.int64]) -> None:
        self._read, self._offsets = read, shard_offsets
        self._kept = Recent[NDArray[np.int32]](_KEPT_ROWS, size=len)

    def __len__(self) -> int:
        return int(self._offsets[-1])

    def __getitem__(self, rows: ArrayLike | slice) -> NDArray[np.int32]:
        asked = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows, dtype=np.int64)
        found = np.empty(asked.shape, dtype=np.int32)
        order = np.argsort(asked, kind="stable")
        shards = np.searchsorted(self._offsets, asked[order], side="right") - 1
        bounds = np.flatnonzero(np.diff(shards, prepend=-1, append=-1))
        for start, stop in pairwise(bounds.tolist()):
            here, shard = order[start:stop], int(shards[start])
            found[here] = self.of_shard(shard)[asked[here] - self._offsets[shard]]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or np.int32)

    def of_shard(self, shard: int) -> NDArray[np.int32]:
        """Those of the rows of a shard."""
        return self._kept.get(shard, lambda: self._read(shard))
