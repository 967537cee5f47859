"""Micro-batches as one block of bytes: a JSON header and raw column buffers, no pickle."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from raydistill.batch import Batch

_ALIGNMENT = 64


def pack(batches: Sequence[Batch]) -> bytes:
    """The bytes that ``unpack`` reads; columns lie at multiples of 64 bytes."""
    headers: list[dict[str, Any]] = []
    buffers: list[np.ndarray[Any, Any]] = []
    position = 0
    for batch in batches:
        columns = []
        for name, column in batch.columns.items():
            array = np.ascontiguousarray(column.numpy())
            columns.append([name, array.dtype.str, list(array.shape), position])
            buffers.append(array)
            position += _padded(array.nbytes)
        headers.append({"columns": columns, "seed": batch.seed, "epoch": batch.epoch, "step": batch.step})
    header = json.dumps(headers).encode()
    start = _padded(8 + len(header))
    content = bytearray(start + position)
    content[:8] = len(header).to_bytes(8, "little")
    content[8 : 8 + len(header)] = header
    for array, at in zip(buffers, _starts(buffers, start), strict=True):
        content[at : at + array.nbytes] = array.tobytes()
    return bytes(content)


def unpack(content: Any) -> list[Batch]:
    """Batches from packed bytes or a buffer; the columns share one writable copy of them."""
    memory = bytearray(content)
    length = int.from_bytes(memory[:8], "little")
    start = _padded(8 + length)
    batches = []
    for header in json.loads(memory[8 : 8 + length]):
        columns = {}
        for name, dtype, shape, position in header["columns"]:
            count = int(np.prod(shape))
            array = np.frombuffer(memory, dtype=np.dtype(dtype), count=count, offset=start + position)
            columns[name] = torch.from_numpy(array.reshape(shape))
        batches.append(Batch(columns, seed=header["seed"], epoch=header["epoch"], step=header["step"]))
    return batches


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _starts(buffers: Sequence[np.ndarray[Any, Any]], start: int) -> list[int]:
    sizes = [_padded(array.nbytes) for array in buffers]
    return [start + int(before) for before in np.concatenate([[0], np.cumsum(sizes)])[: len(sizes)]]
