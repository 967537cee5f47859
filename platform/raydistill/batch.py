"""What one micro-batch holds: column names, dtypes and shapes, and how rows become one.

Columns (B rows, T padded length, R real tokens, M masked tokens, P interchanged positions); indices are flat,
``row * T + position``, so that no step asks the device for a count:

======================== ============ ======= ================================================================
``row_id``               (B,)         int64   identity of the row in its corpus; keys of all draws
``input_ids``            (B, T)       int64   padded with the tokenizer's pad id; masked once a task ran
``attention_mask``       (B, T)       bool    True at real tokens
``lengths``              (B,)         int64   real tokens of a row
``token_index``          (R,)         int64   flat indices of the real tokens
``labels``               (M,)         int64   target ids, written by the task; float32 where they are scores
``label_index``          (M,)         int64   flat indices of the states that predict them, ascending; of tokens only
``token_types``          (R,)         int64   0 in the first text of a pair, 1 in the second; of pairs only
``partner_*``            as above             the same columns of each row's partner, labels too; own padded length T'
``encoding_<e>_*``       as above             ``input_ids``, ``attention_mask``, ``lengths``, ``token_index`` and
                                              ``token_types`` of the same rows as teacher tokenizer e, from 1, encodes
                                              them; own padded length; see ``encoded_as``
``teacher_<n>_<kind>``   (B, ...)     float32 stored outputs of teacher n, see ``data/teacher_outputs.py``; those of
                                              places (R, ...) or (M, ...), ids int64
``teacher_number``       (B,)         int64   of each row's corpus, where each has a teacher of its own
``taught_<n>_*``         as above             the rows of teacher n, see ``methods/_teacher_rows.py``
``interchange_base``     (P,)         int64   flat indices into the base's (B, T), ascending
``interchange_partner``  (P,)         int64   flat indices into the partner's (B, T'), or into the base's own
                                              (B, T) where partners are rows of the batch
======================== ============ ======= ================================================================
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PARTNER = "partner_"
_OF_TOKENS = ("input_ids", "attention_mask", "lengths", "token_index", "token_types", "label_index")
"""Columns that mean another tokenizer's tokens, or nothing, in another encoding."""


@dataclass(frozen=True)
class Batch:
    """Columns of one micro-batch and the keys of its draws: seed, epoch, optimizer step and micro-batch, from 0."""

    columns: Mapping[str, Tensor]
    seed: int
    epoch: int
    step: int
    micro_batch: int = 0
    """Number within its rank's optimizer step; the k-th of every rank has number k."""
    first_row: int | None = None
    """Id of the first row, None where only the device may know it."""

    def __getitem__(self, column: str) -> Tensor:
        return self.columns[column]

    def __contains__(self, column: str) -> bool:
        return column in self.columns

    def get(self, column: str) -> Tensor | None:
        """A column, None where the batch does not have it."""
        return self.columns.get(column)

    @property
    def num_rows(self) -> int:
        """Number of rows, B."""
        return self.columns["row_id"].shape[0]

    def with_columns(self, **columns: Tensor) -> "Batch":
        """A batch with these columns added or replaced; this one is unchanged."""
        return replace(self, columns={**self.columns, **columns})

    def to(self, device: torch.device | str) -> "Batch":
        """The batch with all columns on ``device``; host memory that is pinned is copied without blocking."""
        moved = {name: column.to(device, non_blocking=True) for name, column in self.columns.items()}
        return replace(self, columns=moved)


def encoding_prefix(encoding: int) -> str:
    """What the names of a further encoding's columns start with."""
    return f"encoding_{encoding}_"


def encoded_as(batch: Batch, encoding: int) -> Batch:
    """The batch with its rows in the ids of an encoding under the usual names; 0 is the corpus's own, the batch as is.

    Rows, their ids, labels and draws stay; what is told of tokens is replaced, or left out where the encoding has
    none. Copies nothing and asks no device for a value.
    """
    if encoding == 0:
        return batch
    prefix = encoding_prefix(encoding)
    own = {name: batch[prefix + name] for name in _OF_TOKENS if prefix + name in batch}
    assert "input_ids" in own, f"the batch was built without encoding {encoding}"
    kept = {name: column for name, column in batch.columns.items() if name not in _OF_TOKENS}
    return replace(batch, columns={**kept, **own})


def labels_first(batch: Batch) -> Tensor:
    """Flat positions (R,) of the real tokens: first the M labelled ones, then the others, each ascending."""
    tokens = batch["token_index"]
    labelled = torch.zeros_like(batch["attention_mask"], dtype=torch.int8).flatten()
    labelled = labelled.index_fill(0, batch["label_index"], 1).index_select(0, tokens)
    return tokens.index_select(0, torch.argsort(labelled, descending=True, stable=True))


def pad_rows(
    rows: Sequence[NDArray[np.integer]], *, pad_id: int, prefix: str = "", min_width: int = 0
) -> dict[str, Tensor]:
    """Right-pad id sequences to the longest, or to ``min_width``, and derive mask, lengths and flat token indices.

    ``rows``: B one-dimensional integer arrays, none empty. Returns ``input_ids``, ``attention_mask``, ``lengths``
    and ``token_index`` under ``prefix``, shapes as in the module's table.
    """
    lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
    mask = np.arange(max(lengths.max(), min_width)) < lengths[:, None]
    token_index = np.flatnonzero(mask)
    input_ids = np.full(mask.size, pad_id, dtype=np.int64)
    input_ids[token_index] = np.concatenate(rows)
    columns = {
        "input_ids": input_ids.reshape(mask.shape),
        "attention_mask": mask,
        "lengths": lengths,
        "token_index": token_index,
    }
    return {prefix + name: torch.from_numpy(column) for name, column in columns.items()}


def collate(
    rows: Sequence[NDArray[np.integer]],
    row_ids: Sequence[int] | NDArray[np.int64],
    *,
    pad_id: int,
    seed: int = 0,
    epoch: int = 0,
    step: int = 0,
    micro_batch: int = 0,
    min_width: int = 0,
) -> Batch:
    """Rows of token ids, padded to the longest or to ``min_width``, to a batch without partners."""
    columns = pad_rows(rows, pad_id=pad_id, min_width=min_width)
    ids = np.asarray(row_ids, dtype=np.int64)
    columns["row_id"] = torch.as_tensor(ids)
    return Batch(columns, seed=seed, epoch=epoch, step=step, micro_batch=micro_batch, first_row=int(ids[0]))


def add_partners(
    batch: Batch,
    partners: Sequence[NDArray[np.integer]],
    partner_ids: NDArray[np.int64],
    *,
    pad_id: int,
    min_width: int = 0,
) -> Batch:
    """The batch with a partner for each row, under ``partner_*``; partners are truncated by the caller.

    They are padded to the longest of them, or to ``min_width``.
    """
    columns = pad_rows(partners, pad_id=pad_id, prefix=PARTNER, min_width=min_width)
    columns[PARTNER + "row_id"] = torch.as_tensor(np.asarray(partner_ids, dtype=np.int64))
    return batch.with_columns(**columns)


def padded_rows(batch: Batch, rows: Tensor | None = None) -> Batch:
    """Rows (K,) of a batch, all by default, with all their places, so that models compute padding too.

    Has what a sequence classifier reads. How many real tokens chosen rows have, the host could tell only by waiting for
    the device; padding changes no logits.
    """
    mask = batch["attention_mask"]
    columns = {name: batch[name] for name in ("row_id", "input_ids", "attention_mask", "lengths")}
    token_types = batch.get("token_types")
    if token_types is not None:
        places = token_types.new_zeros(mask.numel()).index_copy(0, batch["token_index"], token_types)
        columns["token_types"] = places.view(mask.shape)
    if rows is not None:
        columns = {name: column.index_select(0, rows) for name, column in columns.items()}
    if token_types is not None:
        columns["token_types"] = columns["token_types"].flatten()
    columns["token_index"] = torch.arange(columns["input_ids"].numel(), device=mask.device)
    return Batch(columns, seed=batch.seed, epoch=batch.epoch, step=batch.step, micro_batch=batch.micro_batch)
