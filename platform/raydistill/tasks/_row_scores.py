"""Predictions of all rows of a corpus as sums: vectors over its rows, 0 but for those of a batch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raydistill.batch import Batch
from raydistill.user_error import UserError

SEEN = "seen"
"""Name of the vector that is 1 at the rows that were scored."""


def by_row(batch: Batch, num_rows: int, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values (B,) or (B, ...) of a batch's rows at their row ids, (num_rows,) or (num_rows, ...), float64."""
    found = {**values, SEEN: torch.ones_like(batch["row_id"])}
    return {name: _spread(batch["row_id"], num_rows, value) for name, value in found.items()}


def _spread(row_ids: Tensor, num_rows: int, values: Tensor) -> Tensor:
    wide = values.double()
    return wide.new_zeros((num_rows, *values.shape[1:])).index_copy(0, row_ids, wide)


def seen_rows(sums: Mapping[str, Any], *, nothing: str) -> dict[str, NDArray[np.float64]]:
    """The added vectors at the rows that were scored, with ``row_id``; raises ValueError with ``nothing`` for none."""
    rows = np.flatnonzero(np.asarray(sums[SEEN]))
    if not len(rows):
        raise UserError(nothing)
    return {"row_id": rows.astype(np.float64), **{name: np.asarray(value)[rows] for name, value in sums.items()}}
