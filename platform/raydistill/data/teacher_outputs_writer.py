"""Writing a set of teacher outputs: rows in, a finished folder out, or one that the next writer goes on with."""

import hashlib
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raydistill.data.sealed_table import ROW_GROUP_ROWS, FileInfo
from raydistill.data.sealed_writer import Entry, Sealer, closed
from raydistill.data.storage import HashingStream
from raydistill.data.teacher_outputs import (
    DIGESTS,
    Header,
    Manifest,
    OutputSet,
    SetShard,
    digest_of,
    record_batch,
    schema_of,
)


class OutputSetEntry(Entry):
    """A finished shard of a set that is not finished."""

    shard: SetShard
    digests: str
    """Of the shard's record batches, end to end."""
    header_hash: str

    @property
    def identity(self) -> str:
        """Hash of the set's header."""
        return self.header_hash


class OutputSetWriter:
    """Takes the outputs of a corpus's rows in order and writes them in the corpus's shards; the manifest comes last.

    Use it as a context manager and call ``finish`` last. Finished shards of an interrupted writer with an equal header
    are kept, ``first_row`` is the first one that is missing; what another header left is removed, and a finished set of
    this one is left as it is.
    """

    def __init__(self, uri: str, header: Header, *, shard_rows: Sequence[int]) -> None:
        assert sum(shard_rows) == header.rows
        self._sealer = Sealer(uri, OutputSet, OutputSetEntry, identity=header.hash)
        self._uri, self._header = uri, header
        self._shard_rows = list(shard_rows)
        self._shards = [entry.shard for entry in self._sealer.entries]
        self._stream: HashingStream | None = None
        self._file: Any = None
        self._digests: list[str] = []
        self._in_shard = 0
        self.is_finished = self._sealer.finished is not None
        self.first_row = header.rows if self.is_finished else sum(shard.rows for shard in self._shards)

    def __enter__(self) -> "OutputSetWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()

    def add(self, row_ids: NDArray[np.int64], values: Mapping[str, Any]) -> None:
        """Append the next rows: 1,000 of a shard, or all that are left of it."""
        size = self._shard_rows[len(self._shards)]
        first = sum(shard.rows for shard in self._shards) + self._in_shard
        assert np.array_equal(row_ids, np.arange(first, first + len(row_ids))), "rows came out of their order"
        assert len(row_ids) == min(ROW_GROUP_ROWS, size - self._in_shard), "a record batch has another number of rows"
        if self._file is None:
            self._stream = self._sealer.folder.open_output(self._name())
            codec = None if self._header.codec == "none" else self._header.codec
            options = pa.ipc.IpcWriteOptions(compression=codec)
            self._file = pa.ipc.new_file(self._stream, schema_of(self._header.columns), options=options)
        batch = record_batch(row_ids, values, self._header.columns)
        self._file.write_batch(batch)
        self._digests.append(digest_of(batch))
        self._in_shard += len(row_ids)
        if self._in_shard == size:
            self._close_shard()

    def finish(self) -> OutputSet:
        """Write the manifest and open the set."""
        if not self.is_finished:
            assert len(self._shards) == len(self._shard_rows), "rows are missing"
            self._sealer.seal(Manifest(header=self._header, shards=tuple(self._shards), digests=self._write_digests()))
            self.is_finished = True
        return OutputSet.open(self._uri)

    def _write_digests(self) -> FileInfo:
        """The digests of all shards, copied from their entries, so that they are never held as a whole."""
        stream = self._sealer.folder.open_output(DIGESTS)
        for number in range(len(self._shards)):
            stream.write(self._sealer.read_entry(number).digests.encode())
        return closed(stream)

    def _name(self) -> str:
        return f"shards/part-{len(self._shards):05d}.arrow"

    def _close_shard(self) -> None:
        assert self._stream is not None
        self._file.close()
        self._stream.close()
        digests = "".join(self._digests)
        shard = SetShard(
            file=self._name(),
            rows=self._in_shard,
            bytes=self._stream.tell(),
            sha256=self._stream.hexdigest(),
            digests_sha256=hashlib.sha256(digests.encode()).hexdigest(),
        )
        entry = OutputSetEntry(header_hash=self._header.hash, shard=shard, digests=digests)
        self._sealer.write_entry(len(self._shards), entry)
        self._shards.append(shard)
        self._file, self._stream, self._digests, self._in_shard = None, None, [], 0
