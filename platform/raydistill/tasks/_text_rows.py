"""Texts to rows of token ids between CLS and SEP, as masked models read them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers.tokenization_utils_base import LARGE_INTEGER

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
