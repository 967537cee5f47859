"""What a corpus keeps of each row beside its token ids: from values to Arrow columns, and to a batch's tensors."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from raydistill.tasks._base import Column
from raydistill.user_error import UserError

Columns = Mapping[str, Column]


def schema_of(columns: Columns) -> pa.Schema:
    """The Arrow schema of these columns, in their order."""
    return pa.schema([(name, _arrow_type(column)) for name, column in columns.items()])


def _arrow_type(column: Column) -> pa.DataType:
    value = pa.from_numpy_dtype(np.dtype(column.dtype))
    return value if column.per == "row" else pa.list_(value)


def table_of(values: Sequence[Mapping[str, Any]], columns: Columns) -> pa.Table:
    """One Arrow row for each mapping of column names to values."""
    schema = schema_of(columns)
    arrays = [_array([one[name] for one in values], column) for name, column in columns.items()]
    return pa.table(arrays, schema=schema)


def _array(values: Sequence[Any], column: Column) -> pa.Array:
    if column.per == "row":
        return pa.array(np.array(values, dtype=column.dtype))
    parts = [np.asarray(value, dtype=column.dtype) for value in values]
    offsets = np.cumsum([0, *map(len, parts)], dtype=np.int32)
    flat = np.concatenate([np.empty(0, dtype=column.dtype), *parts])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """A column as one piece."""
    whole = column.combine_chunks()
    return whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole


def digest_of(table: pa.Table) -> str:
    """16 digits that tell the values of a table from any others."""
    content = hashlib.sha256()
    for name in table.column_names:
        for array in _flat(table.column(name)):
            content.update(np.ascontiguousarray(array).data)
    return content.hexdigest()[:16]


def _flat(column: pa.ChunkedArray) -> list[NDArray[Any]]:
    """A column's values end to end and, for lists, the length of each."""
    array = one_array(column)
    if not pa.types.is_list(column.type):
        return [array.to_numpy(zero_copy_only=False)]
    lengths = array.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    return [array.flatten().to_numpy(zero_copy_only=False), lengths]


def tensors_of(table: pa.Table, columns: Columns) -> dict[str, Tensor]:
    """A batch's columns from the rows (B) of a table.

    A value a row becomes (B,); values of tokens (R,), aligned with the batch's real tokens; lists their values end
    to end, with ``<name>_lengths`` (B,). Integers are int64, floats float32.
    """
    found: dict[str, Tensor] = {}
    for name, column in columns.items():
        values, *lengths = _flat(table.column(name))
        dtype = torch.float32 if values.dtype.kind == "f" else torch.int64
        found[name] = torch.from_numpy(values.copy()).to(dtype)
        if column.per == "list":
            found[f"{name}_lengths"] = torch.from_numpy(lengths[0].copy())
    return found


def check_lengths(table: pa.Table, columns: Columns, lengths: NDArray[np.integer]) -> None:
    """Raise ValueError when a column of tokens has not as many values as its row has tokens."""
    for name, column in columns.items():
        if column.per == "token" and not np.array_equal(_flat(table.column(name))[1], lengths):
            raise UserError(f"column {name!r} has not one value for each token of its row; the encoding has to give it")
