"""Masked language modelling: BERT's task, with masks weighted towards rare tokens.

Devlin et al. 2019, sec. 3.1; weighting as published with DistilBERT (Sanh et al. 2019) and Causal-Distill.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.tokenization_utils_base import LARGE_INTEGER

from raydistill import draws
from raydistill.batch import PARTNER, Batch
from raydistill.tasks._base import Encoding, TaskBase

Row = NDArray[np.integer]


@dataclass(frozen=True)
class EncodeConfig:
    """How texts become rows; defaults are the published ones."""

    max_length: int | None = None
    """Longest row, special tokens included; longer texts are split. None: the tokenizer's limit."""
    min_length: int = 12
    """Rows with fewer tokens, special tokens included, are dropped."""
    max_unknown: float = 0.5
    """Rows whose share of unknown tokens is at least this are dropped."""

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 3:
            raise ValueError(f"max_length is {self.max_length}; it must be at least 3")
        if self.min_length < 2:
            raise ValueError(f"min_length is {self.min_length}; it must be at least 2, the two special tokens")
        if not 0 < self.max_unknown <= 1:
            raise ValueError(f"max_unknown is {self.max_unknown}; it must be in (0, 1]")


@dataclass(frozen=True)
class Config:
    """Which tokens are masked and how; defaults are the published ones."""

    mask_probability: float = 0.15
    """Share of a row's tokens that become targets, special tokens counted."""
    smoothing: float = 0.7
    """A token is chosen with weight count ** -smoothing, so that rare tokens are chosen more often."""
    mask: float = 0.8
    """Share of the targets replaced by the mask token."""
    keep: float = 0.1
    """Share of the targets left as they are."""
    random: float = 0.1
    """Share of the targets replaced by a uniform token id."""

    def __post_init__(self) -> None:
        if not 0 < self.mask_probability < 1:
            raise ValueError(f"mask_probability is {self.mask_probability}; it must be between 0 and 1")
        if self.smoothing < 0:
            raise ValueError(f"smoothing is {self.smoothing}; it must not be negative")
        shares = (self.mask, self.keep, self.random)
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
            raise ValueError(f"mask, keep and random are {', '.join(map(str, shares))}; they must add up to 1")


def check_tokenizer(tokenizer: Any) -> None:
    """Raise ValueError when a tokenizer lacks a special token that the task needs."""
    missing = [role for role in ("cls", "sep", "mask", "pad") if getattr(tokenizer, f"{role}_token_id") is None]
    if missing:
        raise ValueError(f"the tokenizer has no {', '.join(missing)} token; task mlm needs a masked model's tokenizer")


def encode(texts: Sequence[str], tokenizer: Any, config: EncodeConfig) -> list[Row]:
    """Texts to rows ``[CLS] ... [SEP]``: stripped, split where too long, then short and unknown rows dropped.

    Returns int64 arrays. Special tokens written out in a text are recognised as such, as published. Padding and
    truncation that the tokenizer's files ask for are not applied. Raises ValueError when neither ``config`` nor the
    tokenizer limits the length. Source: the published ``binarized_data.py`` (slow path) and ``LmSeqsDataset``.
    """
    return [row for row in cut(texts, tokenizer, config) if drop_reason(row, tokenizer, config) is None]


def cut(texts: Sequence[str], tokenizer: Any, config: EncodeConfig) -> list[Row]:
    """The rows of ``encode`` before any is dropped."""
    limit = config.max_length or int(tokenizer.model_max_length)
    if limit >= LARGE_INTEGER:
        raise ValueError("max_length is null and the tokenizer has no limit; give encoding.max_length")
    if not texts:
        return []
    encoded = tokenizer(
        [text.strip() for text in texts],
        add_special_tokens=False,
        padding=False,
        truncation=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )["input_ids"]
    cls_id, sep_id = tokenizer.cls_token_id, tokenizer.sep_token_id
    rows = (np.array([cls_id, *ids, sep_id], dtype=np.int64) for ids in encoded)
    return [part for row in rows for part in split_long(row, max_length=limit, cls_id=cls_id, sep_id=sep_id)]


def drop_reason(row: Row, tokenizer: Any, config: EncodeConfig) -> str | None:
    """Why ``encode`` leaves a row out, ``short`` or ``unknown``; None for a row that is kept."""
    if len(row) < config.min_length:
        return "short"
    unk_id = tokenizer.unk_token_id
    if unk_id is not None and np.count_nonzero(row == unk_id) >= config.max_unknown * len(row):
        return "unknown"
    return None


def split_long(row: Row, *, max_length: int, cls_id: int, sep_id: int) -> Iterator[Row]:
    """A row as it is, or cut into pieces of ``max_length - 2`` tokens that each start with CLS and end with SEP.

    The row's own special tokens count as tokens of it, as published: 513 tokens with a limit of 512 give 511 and 4.
    """
    if len(row) <= max_length:
        yield row
        return
    for start in range(0, len(row), max_length - 2):
        piece = row[start : start + max_length - 2]
        head = [] if piece[0] == cls_id else [cls_id]
        tail = [] if piece[-1] == sep_id else [sep_id]
        yield np.concatenate([np.array(head, piece.dtype), piece, np.array(tail, piece.dtype)])


class Task(TaskBase):
    """Chooses targets by row and replaces them; writes ``input_ids``, ``labels`` and ``label_index``.

    A row of n tokens has floor(p * n + u) targets, u uniform from the row's key, so a batch has p of its tokens on
    average. Deviation: the published draw is one over a whole micro-batch, which makes a row's masks depend on its
    neighbours.
    """

    HEAD = "masked_lm"

    def __init__(self, config: Config, encoding: Encoding) -> None:
        super().__init__(config, encoding)
        self._mask_id = encoding.special_id("mask")
        counts = encoding.token_counts
        if counts is None:
            raise ValueError("masked language modelling needs the corpus's token counts")
        if len(counts) != encoding.vocab_size:
            raise ValueError(f"token counts are of {len(counts)} ids, the vocabulary has {encoding.vocab_size}")
        self._weights = np.maximum(counts, 1).astype(np.float64) ** -config.smoothing
        self._weights[list(encoding.all_special_ids)] = 0.0

    def prepare_batch(self, batch: Batch) -> Batch:
        """Mask the rows and, when there are any, their partners, by independent draws."""
        input_ids, index = self._masked(batch, "")
        columns = {"input_ids": input_ids, "label_index": index}
        columns["labels"] = batch["input_ids"].flatten()[index]
        if PARTNER + "input_ids" in batch:
            columns[PARTNER + "input_ids"], _ = self._masked(batch, PARTNER)
        return batch.with_columns(**columns)

    def _masked(self, batch: Batch, prefix: str) -> tuple[torch.Tensor, torch.Tensor]:
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
        weights = self._weights[ids] * (np.arange(ids.shape[1]) < lengths[:, None])
        rounding = draws.uniform(prefix + "mlm count", seed, epoch, row_ids)
        counts = np.floor(self.config.mask_probability * lengths + rounding).astype(np.int64)
        counts = np.minimum(counts, np.count_nonzero(weights, axis=1))
        positions = np.arange(ids.shape[1])
        times = draws.exponential(prefix + "mlm choice", seed, epoch, row_ids[:, None], positions)
        with np.errstate(divide="ignore"):
            times = np.where(weights > 0, times / weights, np.inf)
        chosen = np.zeros(ids.shape, dtype=np.bool_)
        np.put_along_axis(chosen, np.argsort(times, axis=1, kind="stable"), positions < counts[:, None], axis=1)
        return chosen

    def _replacements(self, originals: Row, index: Row, width: int, keys: tuple[int, int, Row], prefix: str) -> Row:
        """What stands at the targets afterwards: the mask token, the original or any id of the vocabulary."""
        seed, epoch, row_ids = keys
        where = (seed, epoch, row_ids[index // width], index % width)
        kind = draws.uniform(prefix + "mlm kind", *where)
        random_ids = draws.integers(prefix + "mlm random", *where, high=self.encoding.vocab_size)
        kept = np.where(kind < self.config.mask + self.config.keep, originals, random_ids)
        return np.where(kind < self.config.mask, self._mask_id, kept)
