"""Micro-batches as one block of bytes.

Integers are stored in the fewest bytes that hold them, since most of a batch is ids and indices of 64 bits.
"""

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raydistill.batch import Batch

_NARROW = ((np.uint16, 0, 2**16 - 1), (np.int32, -(2**31), 2**31 - 1))


def pack(batches: Sequence[Batch]) -> bytes:
    """The bytes that ``unpack`` reads."""
    arrays = [{name: column.numpy() for name, column in batch.columns.items()} for batch in batches]
    # Not tensors, which pickle many times slower.
    stored = [{name: (array.dtype.str, _narrowed(array)) for name, array in columns.items()} for columns in arrays]
    return pickle.dumps([{**vars(batch), "columns": columns} for batch, columns in zip(batches, stored, strict=True)])


def unpack(content: Any) -> list[Batch]:
    """Batches from packed bytes or a buffer, which is not needed afterwards; the columns can be written."""
    batches = pickle.loads(content)
    for batch in batches:
        stored = batch["columns"].items()
        batch["columns"] = {name: torch.from_numpy(array.astype(kind)) for name, (kind, array) in stored}
    return [Batch(**batch) for batch in batches]


def _narrowed(array: NDArray[Any]) -> NDArray[Any]:
    """Int64 as a shorter type that holds every value, anything else as it is."""
    if array.dtype != np.int64 or array.size == 0:
        return array
    lowest, highest = int(array.min()), int(array.max())
    for dtype, low, high in _NARROW:
        if low <= lowest and highest <= high:
            return array.astype(dtype)
    return array
