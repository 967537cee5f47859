"""Micro-batches as one block of bytes: a JSON header and raw column buffers, no pickle.

Integers are stored in the fewest bytes that hold them, since most of a batch is ids and indices of 64 bits.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raydistill.batch import Batch

_ALIGNMENT = 64
_KEYS = ("seed", "epoch", "step", "micro_batch", "first_row")
_NARROW = ((np.uint16, 0, 2**16 - 1), (np.int32, -(2**31), 2**31 - 1))


def pack(batches: Sequence[Batch]) -> bytearray:
    """The bytes that ``unpack`` reads; columns lie at multiples of 64 bytes."""
    headers: list[dict[str, Any]] = []
    buffers: list[tuple[int, NDArray[Any]]] = []
    position = 0
    for batch in batches:
        columns = []
        for name, column in batch.columns.items():
            array = column.numpy()
            stored = _narrowed(array)
            columns.append([name, array.dtype.str, stored.dtype.str, list(array.shape), position])
            buffers.append((position, stored))
            position += _padded(stored.nbytes)
        headers.append({"columns": columns, **{key: getattr(batch, key) for key in _KEYS}})
    header = json.dumps(headers).encode()
    start = _padded(8 + len(header))
    content = bytearray(start + position)
    content[:8] = len(header).to_bytes(8, "little")
    content[8 : 8 + len(header)] = header
    for position, array in buffers:
        here = np.frombuffer(content, dtype=array.dtype, count=array.size, offset=start + position)
        here.reshape(array.shape)[...] = array
    return content


def unpack(content: Any) -> list[Batch]:
    """Batches from packed bytes or a buffer, which is not needed afterwards; the columns can be written."""
    memory = memoryview(content)
    length = int.from_bytes(memory[:8], "little")
    start = _padded(8 + length)
    batches = []
    for header in json.loads(bytes(memory[8 : 8 + length])):
        columns = {}
        for name, dtype, stored, shape, position in header["columns"]:
            array = np.frombuffer(memory, dtype=stored, count=math.prod(shape), offset=start + position)
            columns[name] = torch.from_numpy(array.astype(dtype).reshape(shape))
        batches.append(Batch(columns, **{key: header[key] for key in _KEYS}))
    return batches


def _narrowed(array: NDArray[Any]) -> NDArray[Any]:
    """Int64 as a shorter type that holds every value, anything else as it is."""
    if array.dtype != np.int64 or array.size == 0:
        return array
    lowest, highest = int(array.min()), int(array.max())
    for dtype, low, high in _NARROW:
        if low <= lowest and highest <= high:
            return array.astype(dtype)
    return array


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
