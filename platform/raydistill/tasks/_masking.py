"""Which tokens become targets of masked language modeling, and what stands there instead."""

import math
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from raydistill import draws
from raydistill.batch import Batch
from raydistill.tasks._base import Encoding
from raydistill.user_error import UserError

Row = NDArray[np.integer]
Times = NDArray[np.float64]
Keys = tuple[int, int, Row]

_LOW_BITS = np.uint64(2**32 - 1)


class MaskOptions(Protocol):
    """The options of ``tasks/mlm.py`` that masking reads."""

    @property
    def mask_probability(self) -> float: ...
    @property
    def smoothing(self) -> float: ...
    @property
    def sampling(self) -> str: ...
    @property
    def mask(self) -> float: ...
    @property
    def keep(self) -> float: ...


class Masking:
    """Draws targets and replacements, keyed by (seed, epoch, row id, position)."""

    def __init__(self, config: MaskOptions, encoding: Encoding) -> None:
        self.config = config
        self.encoding = encoding
        self._mask_id = encoding.special_id("mask")
        counts = encoding.token_counts
        if counts is None:
            raise UserError("masked language modeling needs the corpus's token counts")
        if len(counts) != encoding.vocab_size:
            raise UserError(f"token counts are of {len(counts)} ids, the vocabulary has {encoding.vocab_size}")
        # Inverse weights, infinite where a token is never chosen.
        self._scales = np.maximum(counts, 1).astype(np.float64) ** config.smoothing
        self._scales[list(encoding.all_special_ids)] = np.inf
        self._choose = self._choose_of_batch if config.sampling == "batch" else self._choose_by_row

    def __call__(self, batch: Batch, prefix: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Masked ids (B, T) and flat indices (M,) of the targets, ascending."""
        ids = batch[prefix + "input_ids"].numpy()
        lengths = batch[prefix + "lengths"].numpy()
        # Keyed by the row that is being prepared, not by the partner, so two rows with one partner draw apart.
        keys = (batch.seed, batch.epoch, batch["row_id"].numpy())
        index = self._choose(self._times(ids, lengths, keys, prefix), lengths, keys, prefix)
        masked = ids.copy().reshape(-1)
        masked[index] = self._replacements(masked[index], index, ids.shape[1], keys, prefix)
        return torch.from_numpy(masked.reshape(ids.shape)), torch.from_numpy(index)

    def _times(self, ids: Row, lengths: Row, keys: Keys, prefix: str) -> Times:
        """Exponential(1) / weight of each place (B, T), infinite where none is chosen.

        The k smallest of some places are k of them drawn by weight without replacement.
        """
        seed, epoch, row_ids = keys
        positions = np.arange(ids.shape[1])
        scales = self._scales[ids]
        scales[positions >= lengths[:, None]] = np.inf
        return draws.exponential(prefix + "mlm choice", seed, epoch, row_ids[:, None], positions) * scales

    def _choose_by_row(self, times: Times, lengths: Row, keys: Keys, prefix: str) -> Row:
        """Flat targets, of each row p of its tokens, rounded up or down by a draw of the row."""
        rounding = draws.uniform(prefix + "mlm count", *keys)
        counts = np.floor(self.config.mask_probability * lengths + rounding).astype(np.int64)
        counts = np.minimum(counts, np.count_nonzero(times < np.inf, axis=1))
        most = int(counts.max())
        if most == 0:
            return np.empty(0, dtype=np.int64)
        smallest = np.sort(np.partition(times, most - 1, axis=1)[:, :most], axis=1)
        last = smallest[np.arange(len(counts)), np.maximum(counts, 1) - 1]
        last[counts == 0] = 0.0
        return np.flatnonzero(times <= last[:, None])

    def _choose_of_batch(self, times: Times, lengths: Row, keys: Keys, prefix: str) -> Row:
        """Flat targets, p of all tokens of the micro-batch, rounded up, wherever they lie."""
        flat = times.reshape(-1)
        wanted = math.ceil(self.config.mask_probability * int(lengths.sum()))
        count = min(wanted, int(np.count_nonzero(flat < np.inf)))
        return np.sort(np.argpartition(flat, count - 1)[:count])

    def _replacements(self, originals: Row, index: Row, width: int, keys: Keys, prefix: str) -> Row:
        """What stands at the targets afterwards: the mask token, the original or any id of the vocabulary."""
        seed, epoch, row_ids = keys
        bits = draws.hash64(prefix + "mlm replacement", seed, epoch, row_ids[index // width], index % width)
        # Two draws of 32 bits each: what the token becomes, and which id where it becomes a random one.
        kind = (bits >> np.uint64(32)).astype(np.float64) * 2.0**-32
        random_ids = ((bits & _LOW_BITS) * np.uint64(self.encoding.vocab_size)) >> np.uint64(32)
        kept = np.where(kind < self.config.mask + self.config.keep, originals, random_ids.astype(np.int64))
        return np.where(kind < self.config.mask, self._mask_id, kept)
