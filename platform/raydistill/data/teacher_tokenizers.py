"""Rows in the ids of teacher tokenizers, for teachers that have them: columns beside the row, and what batches get.

Encodings are numbered: 0 is the corpus's own tokenizer, 1 the first further one. Of encoding e a corpus has for each
row ``input_ids_<e>``, a list in the smallest unsigned type that holds the vocabulary, and ``second_<e>``, the position
where the second text of a pair starts, the row's length for a single text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from raydistill.batch import encoding_prefix, pad_rows
from raydistill.data.row_columns import tensors_of
from raydistill.tasks._base import Column, LabelledRow
from raydistill.tasks._pair_rows import token_types
from raydistill.user_error import UserError


@dataclass(frozen=True)
class FurtherTokenizer:
    """A tokenizer that encodes the examples too, as plain data."""

    files: Mapping[str, bytes]
    """Its saved files."""
    vocab_size: int
    max_length: int
    """Longest of its rows, special tokens included."""


def _names(encoding: int) -> tuple[str, str]:
    return f"input_ids_{encoding}", f"second_{encoding}"


def further_columns(vocab_sizes: Sequence[int]) -> dict[str, Column]:
    """The columns of a corpus for teacher tokenizers with these numbers of ids, in their order."""
    found: dict[str, Column] = {}
    for encoding, vocab_size in enumerate(vocab_sizes, start=1):
        ids, second = _names(encoding)
        found[ids] = Column(np.min_scalar_type(vocab_size - 1).name, "list")
        found[second] = Column("int32")
    return found


def further_values(row: LabelledRow, encoding: int, *, vocab_size: int) -> dict[str, Any]:
    """The values of an encoding's columns for a row that its tokenizer made.

    Raises ValueError for an id outside the vocabulary and for a row without tokens.
    """
    if len(row.ids) == 0:
        raise UserError(f"an example has no token in teacher tokenizer {encoding}; leave empty texts out")
    if row.ids.max() >= vocab_size:
        raise UserError(
            f"teacher tokenizer {encoding} gave id {row.ids.max()} but its vocabulary has {vocab_size} entries; repair "
            "the tokenizer's files"
        )
    return dict(zip(_names(encoding), (row.ids, row.values["second"]), strict=True))


def own_columns(columns: Mapping[str, Column], *, num_further: int) -> dict[str, Column]:
    """A corpus's columns without those of its teacher tokenizers."""
    further = {name for encoding in range(1, num_further + 1) for name in _names(encoding)}
    return {name: column for name, column in columns.items() if name not in further}


def further_tensors(table: pa.Table, encoding: int, *, pad_id: int) -> dict[str, Tensor]:
    """The padded columns of a batch for an encoding, as ``batch.py`` lists them, from the rows (B) of a table.

    Made on the CPU, before the batch travels: on a device its width would have to be asked for.
    """
    ids, second = _names(encoding)
    found = tensors_of(table, {ids: Column("int64", "list"), second: Column("int32")})
    ends = found[f"{ids}_lengths"].cumsum(0)[:-1]
    padded = pad_rows(np.split(found[ids].numpy(), ends.numpy()), pad_id=pad_id)
    width = padded["input_ids"].shape[1]
    types = token_types(padded["token_index"], found[second], padded["lengths"], width=width)
    # As of the corpus's own encoding: models take single texts' types by themselves.
    if bool(types.any()):
        padded["token_types"] = types
    return {encoding_prefix(encoding) + name: column for name, column in padded.items()}
