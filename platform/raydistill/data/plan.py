"""Which rows make which global batch: a function of the corpus's shape, the seed and the step.

An epoch puts the shards in a seeded order and cuts the rows, so ordered, into windows of consecutive optimizer
steps. Inside a window rows are shuffled, brought into length buckets when asked for, and cut into batches whose
order is shuffled again. So any window can be computed alone: a restart at step k looks at one window only, and
nothing depends on the number of workers.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raydistill.data.lengths import Lengths
from raydistill.draws import permutation
from raydistill.user_error import UserError

BUCKET_WIDTH = 4
WINDOW_ROWS = 65_536
_KEPT_WINDOWS = 8
"""Ranks that ask one plan may be some windows apart; a window takes 0.5 MB."""

Rows = NDArray[np.int64]


def length_bucket(lengths: ArrayLike) -> NDArray[np.int64]:
    """Bucket of each length: the number of edges 3, 7, 11, ... that are at most the length.

    Source: the published batch sampler; 12 to 14 are in bucket 3, 15 to 18 in bucket 4, 511 in bucket 128.
    """
    return (np.asarray(lengths, dtype=np.int64) + 1) // BUCKET_WIDTH


def bucket_upper_edge(lengths: ArrayLike) -> NDArray[np.int64]:
    """The longest length that shares each length's bucket."""
    return length_bucket(lengths) * BUCKET_WIDTH + BUCKET_WIDTH - 2


class Plan:
    """Rows of every global batch of a run; steps count from 0 over all epochs.

    An epoch has ceil(rows / batch_size) steps whose sizes differ by at most one row, so that none is tiny, and
    holds every row once. ``lengths``: (rows,); ``shard_offsets``: first row of each shard and the total at the end.
    Without ``shuffle`` every epoch has the rows in the corpus's order.
    Deviation: the published sampler fills each bucket's batches to ``batch_size`` and mixes only what is left over
    at the end of an epoch; here a batch may span neighbouring buckets.
    """

    def __init__(
        self,
        lengths: Lengths | NDArray[np.integer],
        shard_offsets: NDArray[np.int64],
        *,
        batch_size: int,
        seed: int,
        group_by_length: bool = True,
        shuffle: bool = True,
        window_rows: int = WINDOW_ROWS,
    ) -> None:
        self.num_rows = int(shard_offsets[-1])
        if self.num_rows == 0:
            raise UserError("the corpus has no rows; binarize more text")
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; give at least 1")
        assert len(lengths) == self.num_rows
        self._lengths = lengths
        self._offsets = np.asarray(shard_offsets, dtype=np.int64)
        self._seed = seed
        self._group_by_length = group_by_length
        self._shuffle = shuffle
        self.steps_per_epoch = -(-self.num_rows // batch_size)
        steps_per_window = max(1, window_rows // batch_size)
        self._windows_per_epoch = -(-self.steps_per_epoch // steps_per_window)
        self._window = lru_cache(maxsize=_KEPT_WINDOWS)(self._compute_window)

    @property
    def smallest_batch(self) -> int:
        """Rows of the smallest global batch."""
        return self.num_rows // self.steps_per_epoch

    def epoch_of(self, step: int) -> int:
        """The epoch that a step belongs to, from 0."""
        return step // self.steps_per_epoch

    def rows(self, step: int) -> Rows:
        """The rows of one global batch, sorted by length bucket when batches are grouped by length."""
        epoch, window = self.window(step)
        return self._window(epoch, window)[step % self.steps_per_epoch - self._first_step(window)]

    def window(self, step: int) -> tuple[int, int]:
        """The epoch that a step belongs to, and its window there, whose rows are drawn together."""
        return step // self.steps_per_epoch, self._window_of(step % self.steps_per_epoch)

    def pieces(self, start: int, stop: int, *, max_steps: int) -> Iterator[tuple[int, int]]:
        """Cut the steps ``start`` to ``stop - 1`` into ranges of at most ``max_steps`` inside one window each."""
        while start < stop:
            epoch, local = divmod(start, self.steps_per_epoch)
            window_stop = epoch * self.steps_per_epoch + self._first_step(self._window_of(local) + 1)
            piece_stop = min(start + max_steps, window_stop, stop)
            yield start, piece_stop
            start = piece_stop

    def _window_of(self, local_step: int) -> int:
        # The largest w with first_step(w) <= local_step; first_step rounds down, hence the -1.
        return ((local_step + 1) * self._windows_per_epoch - 1) // self.steps_per_epoch

    def _first_step(self, window: int) -> int:
        return window * self.steps_per_epoch // self._windows_per_epoch

    def _first_row(self, local_step: ArrayLike) -> NDArray[np.int64]:
        return np.asarray(local_step, dtype=np.int64) * self.num_rows // self.steps_per_epoch

    def _compute_window(self, epoch: int, window: int) -> list[Rows]:
        steps = np.arange(self._first_step(window), self._first_step(window + 1) + 1)
        edges = self._first_row(steps)
        if not self._shuffle:
            return np.split(np.arange(edges[0], edges[-1], dtype=np.int64), edges[1:-1] - edges[0])
        rows = self._ordered_rows(epoch, int(edges[0]), int(edges[-1]))
        rows = rows[permutation("plan rows", self._seed, epoch, window, size=len(rows))]
        order = permutation("plan batches", self._seed, epoch, window, size=len(steps) - 1)
        if self._group_by_length:
            rows = rows[np.argsort(length_bucket(self._lengths[rows]), kind="stable")]
        # Chunk c of the sorted rows becomes step order[c] of the window and takes that step's size.
        cuts = np.cumsum(np.diff(edges)[order])[:-1]
        batches: list[Rows] = [rows] * len(order)
        for place, chunk in zip(order, np.split(rows, cuts), strict=True):
            batches[place] = chunk
        return batches

    def _ordered_rows(self, epoch: int, start: int, stop: int) -> Rows:
        """Rows ``start`` to ``stop - 1`` of the epoch's sequence of shards."""
        shards = permutation("plan shards", self._seed, epoch, size=len(self._offsets) - 1)
        sizes = np.diff(self._offsets)[shards]
        ends = np.cumsum(sizes)
        first, last = np.searchsorted(ends, [start, stop - 1], side="right")
        ranges = []
        for place in range(first, last + 1):
            begin = ends[place] - sizes[place]
            shard_start = self._offsets[shards[place]]
            low, high = max(start - begin, 0), min(stop - begin, sizes[place])
            ranges.append(np.arange(shard_start + low, shard_start + high, dtype=np.int64))
        return np.concatenate(ranges)


class Partners:
    """A permutation of all rows, fixed for a run: shards change places with shards of their size, rows inside.

    So the partners of a shard's rows lie in one shard and are read together. Deviation: the published pairing is
    one permutation over all rows; a shard whose size no other shard has is paired with itself.
    """

    def __init__(self, shard_offsets: NDArray[np.int64], *, seed: int) -> None:
        self._offsets = np.asarray(shard_offsets, dtype=np.int64)
        self._seed = seed
        sizes = np.diff(self._offsets)
        self._shard_of = np.arange(len(sizes))
        for size in np.unique(sizes):
            same = np.flatnonzero(sizes == size)
            self._shard_of[same] = same[permutation("partner shards", seed, int(size), size=len(same))]
        self._within = lru_cache(maxsize=8)(self._compute_within)

    def of(self, rows: Rows) -> Rows:
        """The partner of each row; a row may be its own."""
        shards = np.searchsorted(self._offsets, rows, side="right") - 1
        partners = np.empty_like(rows)
        for shard in np.unique(shards):
            here = shards == shard
            within = self._within(int(shard))[rows[here] - self._offsets[shard]]
            partners[here] = self._offsets[self._shard_of[shard]] + within
        return partners

    def _compute_within(self, shard: int) -> Rows:
        size = int(self._offsets[shard + 1] - self._offsets[shard])
        return permutation("partner rows", self._seed, shard, size=size)


def micro_batches(rows: Rows, *, rank: int, world_size: int, num_micro_batches: int) -> list[Rows]:
    """The parts of a global batch that one rank works on, one for each micro-batch, sizes within one row."""
    parts = np.array_split(rows, world_size * num_micro_batches)
    return parts[rank * num_micro_batches : (rank + 1) * num_micro_batches]
