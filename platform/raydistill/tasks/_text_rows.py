"""Examples to rows of token ids between two special tokens: CLS and SEP as masked models read them, or others."""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydistill.tasks._base import SHORT, UNKNOWN, Column, Rows
from raydistill.tasks._long_texts import batches, encodings, is_long, pieces
from raydistill.tasks._tokenizing import length_limit, plain_backend
from raydistill.user_error import UserError

Row = NDArray[np.integer]
_ROWS_AT_ONCE = 1_000
_LARGEST_ID = int(np.iinfo(np.int32).max)


@dataclass(frozen=True)
class Ends:
    """The special tokens that a row starts and ends with."""

    first: int
    last: int
    names: tuple[str, str]
    """What they are called in messages."""


@dataclass(frozen=True)
class EncodeConfig:
    """How texts become rows; defaults are the published ones."""

    max_length: int | None = None
    """The maximum length of a row, special tokens included; longer texts are split. None: the tokenizer's limit."""
    min_length: int = 12
    """Rows with fewer tokens, special tokens included, are dropped."""
    max_unknown: float = 0.5
    """Rows whose fraction of unknown tokens is at least this are dropped."""

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 3:
            raise UserError(f"max_length is {self.max_length}; it must be at least 3")
        if self.min_length < 2:
            raise UserError(f"min_length is {self.min_length}; it must be at least 2, the two special tokens")
        if not 0 < self.max_unknown <= 1:
            raise UserError(f"max_unknown is {self.max_unknown}; it must be in (0, 1]")


def encode(examples: Sequence[Mapping[str, Any]], tokenizer: Any, config: EncodeConfig) -> list[Row]:
    """Examples to rows ``[CLS] ... [SEP]``: stripped, split where too long, then short and unknown rows dropped.

    An example's text is its ``text``, or its ``words`` joined with spaces; its ``input_ids`` are a row already, which
    has to start with CLS and end with SEP. Special tokens written out in a text are recognised as such, as published.
    Padding and truncation that the tokenizer's files ask for are not applied. Raises ValueError for an example with
    none of these or with a ``text_pair``, and when neither ``config`` nor the tokenizer limits the length.
    Source: the published ``binarized_data.py`` (slow path) and ``LmSeqsDataset``.
    """
    rows = cut(examples, tokenizer, config)
    reasons = drop_reasons(rows, tokenizer, config)
    return [row for row, reason in zip(rows, reasons, strict=True) if reason is None]


def cut(examples: Sequence[Mapping[str, Any]], tokenizer: Any, config: EncodeConfig) -> list[Row]:
    """The rows of ``encode`` before any is dropped, int64, of a long text int32."""
    return cut_between(examples, tokenizer, config, masked_ends(tokenizer))


def masked_ends(tokenizer: Any) -> Ends:
    """CLS and SEP, between which masked models read a row."""
    return Ends(tokenizer.cls_token_id, tokenizer.sep_token_id, ("CLS", "SEP"))


def cut_between(examples: Sequence[Mapping[str, Any]], tokenizer: Any, config: EncodeConfig, ends: Ends) -> list[Row]:
    """What ``cut`` does, with other special tokens at the ends of a row."""
    limit = length_limit(tokenizer, config.max_length)
    parts = Rows()
    for number, row in enumerate(whole_rows(examples, tokenizer, ends)):
        if len(row) <= limit:
            parts.append(row)
        else:
            parts.extend(split_long(row, max_length=limit, cls_id=ends.first, sep_id=ends.last))
        parts.example_of.extend([number] * (len(parts) - len(parts.example_of)))
    return parts


def columns(config: EncodeConfig) -> dict[str, Column]:
    """Rows of text have nothing beside their ids."""
    return {}


def whole_rows(examples: Sequence[Mapping[str, Any]], tokenizer: Any, ends: Ends) -> Iterator[Row]:
    """One row an example, however long, int64, of a long text int32."""
    texts = [_text(example) for example in examples if "input_ids" not in example]
    of_texts = encode_texts(texts, tokenizer, ends)
    for example in examples:
        yield _checked_row(example["input_ids"], ends) if "input_ids" in example else next(of_texts)


def _text(example: Mapping[str, Any]) -> str:
    if "text_pair" in example:
        raise UserError("an example has a text_pair, which this task does not read; leave text_pair out of the source")
    if "text" in example:
        return str(example["text"]).strip()
    if "words" in example:
        return " ".join(example["words"]).strip()
    raise UserError(f"an example has {', '.join(example) or 'no key'}; this task reads text, words or input_ids")


def encode_texts(texts: list[str], tokenizer: Any, ends: Ends) -> Iterator[Row]:
    """One row a text, of long ones one after the other."""
    backend = plain_backend(tokenizer)
    for batch in batches(texts):
        # A long one may be in a batch beside short ones.
        for long, group in groupby(batch, key=is_long):
            texts_of = list(group)
            yield from (
                (_long_row(text, backend, ends) for text in texts_of) if long else _short(texts_of, backend, ends)
            )


def _long_row(text: str, backend: Any, ends: Ends) -> Row:
    ids = array("i", [ends.first])
    for encoding in encodings(pieces(text, backend), backend):
        ids.extend(encoding.ids)
    ids.append(ends.last)
    return np.frombuffer(ids, dtype=np.int32)


def _short(texts: list[str], backend: Any, ends: Ends) -> list[Row]:
    """Views of a single array: a thousand small arrays would take longer than their tokens."""
    rows = [
        [ends.first, *encoding.ids, ends.last]
        for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)
    ]
    stops = np.cumsum([len(row) for row in rows], dtype=np.int64).tolist()
    flat = np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=stops[-1] if stops else 0)
    return [flat[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]


def _checked_row(ids: Any, ends: Ends) -> Row:
    row = np.asarray(ids)
    if row.ndim != 1 or row.dtype.kind not in "iu" or not len(row):
        raise UserError(f"input_ids are of shape {row.shape} and type {row.dtype}; a row is a list of token ids")
    if row[0] != ends.first or row[-1] != ends.last:
        first, last = ends.names
        raise UserError(
            f"input_ids start with {row[0]} and end with {row[-1]}; rows of this tokenizer start with {ends.first} "
            f"({first}) and end with {ends.last} ({last}); give the tokenizer that made them"
        )
    if row.min() < 0 or row.max() > _LARGEST_ID:
        raise UserError(f"input_ids range from {row.min()} to {row.max()}; token ids are between 0 and {_LARGEST_ID}")
    return row.astype(np.int64)


def drop_reasons(rows: Sequence[Row], tokenizer: Any, config: EncodeConfig) -> list[str | None]:
    """For each row why ``encode`` leaves it out, ``short`` or ``unknown``; None for one that is kept."""
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    reasons = np.full(len(rows), None, dtype=object)
    if rows and tokenizer.unk_token_id is not None:
        groups = (rows[start : start + _ROWS_AT_ONCE] for start in range(0, len(rows), _ROWS_AT_ONCE))
        num_unknown = np.concatenate([_num_unknown(group, tokenizer.unk_token_id) for group in groups])
        reasons[num_unknown >= config.max_unknown * lengths] = UNKNOWN
    reasons[lengths < config.min_length] = SHORT
    return list(reasons)


def _num_unknown(rows: Sequence[Row], unknown_id: int) -> NDArray[np.int64]:
    before = np.concatenate([[0], np.cumsum(np.concatenate(rows) == unknown_id)])
    ends = np.cumsum([0, *map(len, rows)])
    return np.diff(before[ends])


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
