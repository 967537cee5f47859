"""Which tokens of a row become targets of masked language modelling, and what stands there instead."""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from raydistill import draws
from raydistill.batch import Batch
from raydistill.tasks._base import Encoding

Row = NDArray[np.integer]

_LOW_BITS = np.uint64(2**32 - 1)


class MaskOptions(Protocol):
    """The options of ``tasks/mlm.py`` that masking reads."""

    @property
    def mask_probability(self) -> float: ...
    @property
    def smoothing(self) -> float: ...
    @property
    def mask(self) -> float: ...
    @property
    def keep(self) -> float: ...


class Masking:
    """Draws targets and replacements by row, from (seed, epoch, row id, position) alone."""

    def __init__(self, config: MaskOptions, encoding: Encoding) -> None:
        self.config = config
        self.encoding = encoding
        self._mask_id = encoding.special_id("mask")
        counts = encoding.token_counts
        if counts is None:
            raise ValueError("masked language modelling needs the corpus's token counts")
        if len(counts) != encoding.vocab_size:
            raise ValueError(f"token counts are of {len(counts)} ids, the vocabulary has {encoding.vocab_size}")
        # Inverse weights, infinite where a token is never chosen.
        self._scales = np.maximum(counts, 1).astype(np.float64) ** config.smoothing
        self._scales[list(encoding.all_special_ids)] = np.inf

    def __call__(self, batch: Batch, prefix: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Masked ids (B, T) and flat indices (M,) of the targets, ascending."""
        ids = batch[prefix + "input_ids"].numpy()
        lengths = batch[prefix + "lengths"].numpy()
        # Keyed by the row that is being prepared, not by the partner, so two rows with one partner draw apart.
        keys = (batch.seed, batch.epoch, batch["row_id"].numpy())
        chosen = self._choose(ids, lengths, keys, prefix)
        index = np.flatnonzero(chosen)
        masked = ids.copy().reshape(-1)
        masked[index] = self._replacements(masked[index], index, ids.shape[1], keys, prefix)
        return torch.from_numpy(masked.reshape(ids.shape)), torch.from_numpy(index)

    def _choose(self, ids: Row, lengths: Row, keys: tuple[int, int, Row], prefix: str) -> NDArray[np.bool_]:
        """Targets (B, T): the smallest exponential(1) / weight of a row, weighted sampling without replacement."""
        seed, epoch, row_ids = keys
        positions = np.arange(ids.shape[1])
        scales = self._scales[ids]
        scales[positions >= lengths[:, None]] = np.inf
        rounding = draws.uniform(prefix + "mlm count", seed, epoch, row_ids)
        counts = np.floor(self.config.mask_probability * lengths + rounding).astype(np.int64)
        counts = np.minimum(counts, np.count_nonzero(scales < np.inf, axis=1))
        most = int(counts.max())
        if most == 0:
            return np.zeros(ids.shape, dtype=np.bool_)
        times = draws.exponential(prefix + "mlm choice", seed, epoch, row_ids[:, None], positions) * scales
        smallest = np.sort(np.partition(times, most - 1, axis=1)[:, :most], axis=1)
        last = smallest[np.arange(len(counts)), np.maximum(counts, 1) - 1]
        last[counts == 0] = 0.0
        chosen: NDArray[np.bool_] = times <= last[:, None]
        return chosen

    def _replacements(self, originals: Row, index: Row, width: int, keys: tuple[int, int, Row], prefix: str) -> Row:
        """What stands at the targets afterwards: the mask token, the original or any id of the vocabulary."""
        seed, epoch, row_ids = keys
        bits = draws.hash64(prefix + "mlm replacement", seed, epoch, row_ids[index // width], index % width)
        # Two draws of 32 bits each: what the token becomes, and which id where it becomes a random one.
        kind = (bits >> np.uint64(32)).astype(np.float64) * 2.0**-32
        random_ids = ((bits & _LOW_BITS) * np.uint64(self.encoding.vocab_size)) >> np.uint64(32)
        kept = np.where(kind < self.config.mask + self.config.keep, originals, random_ids.astype(np.int64))
        return np.where(kind < self.config.mask, self._mask_id, kept)
