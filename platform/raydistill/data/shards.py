"""One Parquet file of a corpus: how its rows are written, and how it is opened by what was recorded of it."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from raydistill.data.row_columns import digest_of, one_array, schema_of
from raydistill.data.sealed_table import ROW_GROUP_ROWS, STRICT, SealedFolder, Shard
from raydistill.tasks._base import Column

_DIGESTS = b"raydistill.row_groups"
"""Key in the Parquet footer of a digest for each row group; pages and their headers have no other."""
_COLUMN_DIGESTS = b"raydistill.columns"
"""The same of what the rows have beside their ids."""
_GROUPS_AT_ONCE = 16
"""Row groups that are read together: of a store in one piece, as they lie beside each other."""
_TAIL_BYTES = 8
"""At the end of a Parquet file: the length of its footer, 4 bytes, and a mark."""


@dataclass(frozen=True, slots=True, config=STRICT)
class ShardInfo(Shard):
    """One Parquet file of a corpus, and what tells it from any other."""

    footer_sha256: str
    """SHA-256 of the Parquet footer, which every reader reads: a cheap check that this is the file."""
    lengths_sha256: str
    """SHA-256 of its rows' part of the file of lengths."""


class ShardWriter:
    """Writes row groups to one file; ``close`` tells what was written, ``abort`` leaves what nobody knows of."""

    def __init__(
        self, folder: SealedFolder, file: str, dtype: np.dtype[Any], columns: Mapping[str, Column] | None = None
    ) -> None:
        self._folder, self._file, self._dtype = folder, file, dtype
        self._stream = folder.open_output(file)
        ids = pa.from_numpy_dtype(dtype)
        schema = pa.schema([("row_id", pa.int64()), ("input_ids", pa.list_(ids)), ("length", pa.int32())])
        schema = pa.unify_schemas([schema, schema_of(columns or {})])
        # The bytes of ids, split by their place, compress best and fastest: high bytes are nearly all small.
        encodings = {
            "row_id": "DELTA_BINARY_PACKED",
            "input_ids.list.element": "BYTE_STREAM_SPLIT",
            "length": "DELTA_BINARY_PACKED",
        }
        self._parquet = pq.ParquetWriter(
            self._stream,
            schema,
            compression="zstd",
            use_dictionary=False,
            column_encoding=encodings,
            write_statistics=False,
        )
        self._digests: list[str] = []
        self._column_digests: list[str] = []
        self._lengths = hashlib.sha256()
        self.rows = 0

    def write(
        self, first_row: int, ids: NDArray[np.integer], lengths: NDArray[np.int32], values: pa.Table | None = None
    ) -> None:
        """Append a row group: rows numbered from ``first_row``, their ids end to end, and the values of columns."""
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        ids = ids.astype(self._dtype)
        columns = [
            pa.array(np.arange(first_row, first_row + len(lengths))),
            pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids)),
            pa.array(lengths),
            *(values.columns if values is not None else []),
        ]
        self._parquet.write_table(pa.table(columns, schema=self._parquet.schema), row_group_size=ROW_GROUP_ROWS)
        self._digests.append(_digest(ids, lengths))
        self._column_digests.append("none" if values is None else digest_of(values))
        self._lengths.update(np.ascontiguousarray(lengths).data)
        self.rows += len(lengths)

    def close(self) -> ShardInfo:
        """Finish the file and describe it."""
        self._parquet.add_key_value_metadata(
            {_DIGESTS: " ".join(self._digests), _COLUMN_DIGESTS: " ".join(self._column_digests)}
        )
        self._parquet.close()
        self._stream.close()
        with self._folder.open_input(self._file) as stream:
            footer = _sha256(_footer(stream))
        return ShardInfo(
            file=self._file,
            rows=self.rows,
            bytes=self._stream.tell(),
            sha256=self._stream.hexdigest(),
            footer_sha256=footer,
            lengths_sha256=self._lengths.hexdigest(),
        )

    def abort(self) -> None:
        """Let go of the file, half-written as it is."""
        self._parquet.is_open = False
        self._stream.close()


class ShardReader:
    """A shard opened for reading; everything it reads is compared with what was recorded.

    Raises ValueError that names the file when it is damaged, another one, or cannot be read.
    """

    def __init__(self, folder: SealedFolder, info: ShardInfo) -> None:
        self._folder, self._file = folder, info.file
        with self._folder.named_errors(self._file):
            self._stream = folder.open_input(info.file)
            footer = _footer(self._stream)
            if _sha256(footer) != info.footer_sha256:
                raise self._folder.fault(self._file, "is not the file that was written there")
            # By itself Arrow reads 64 kB to find the footer.
            metadata = pq.read_metadata(pa.BufferReader(footer))
            self._parquet = pq.ParquetFile(self._stream, metadata=metadata, pre_buffer=not folder.is_local)
            metadata = self._parquet.metadata.metadata
            self._digests = metadata[_DIGESTS].decode().split()
            self._column_digests = metadata[_COLUMN_DIGESTS].decode().split()

    def __enter__(self) -> "ShardReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._stream.close()

    @property
    def num_groups(self) -> int:
        """Number of row groups."""
        return len(self._digests)

    def read_ids(self, groups: Sequence[int]) -> Iterator[tuple[NDArray[np.integer], NDArray[np.int32]]]:
        """Of each row group the ids of its rows, end to end, and where each starts, with the end of the last."""
        for start in range(0, len(groups), _GROUPS_AT_ONCE):
            at_once = groups[start : start + _GROUPS_AT_ONCE]
            with self._folder.named_errors(self._file):
                column = one_array(self._parquet.read_row_groups(at_once, columns=["input_ids"]).column("input_ids"))
                ids, offsets = column.values.to_numpy(), column.offsets.to_numpy()
            first = 0
            for group in at_once:
                stop = first + self._parquet.metadata.row_group(group).num_rows
                of_group, first = offsets[first : stop + 1], stop
                own = ids[of_group[0] : of_group[-1]]
                if _digest(own, np.diff(of_group)) != self._digests[group]:
                    raise self._folder.fault(self._file, "has other rows than were written")
                yield own, of_group - of_group[0]

    def read_columns(self, group: int, columns: Mapping[str, Column]) -> pa.Table:
        """What a row group's rows have beside their ids."""
        with self._folder.named_errors(self._file):
            table = self._parquet.read_row_group(group, columns=list(columns)).select(list(columns))
        if digest_of(table) != self._column_digests[group]:
            raise self._folder.fault(self._file, "has other values than those that were written")
        return table

    def read_lengths(self) -> NDArray[np.int32]:
        """Length of each row of the shard."""
        with self._folder.named_errors(self._file):
            lengths: NDArray[np.int32] = self._parquet.read(columns=["length"]).column("length").to_numpy()
        return lengths


def _digest(ids: NDArray[np.integer], lengths: NDArray[np.integer]) -> str:
    """16 digits that tell the rows of a row group from any others."""
    content = hashlib.sha256(np.ascontiguousarray(ids).data)
    content.update(lengths.astype(np.int32).data)
    return content.hexdigest()[:16]


def _footer(stream: Any) -> bytes:
    size = stream.size()
    stream.seek(max(size - _TAIL_BYTES, 0))
    tail = stream.read(_TAIL_BYTES)
    length = min(int.from_bytes(tail[:4], "little") + _TAIL_BYTES, size)
    stream.seek(size - length)
    return bytes(stream.read(length))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
