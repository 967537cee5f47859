"""Writing a corpus: rows in, a finished folder out, or nothing that looks finished."""

import io
import uuid
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raydistill.data.corpus import (
    FORMAT_VERSION,
    LENGTHS,
    MANIFEST,
    TOKEN_COUNTS,
    TOKENIZER,
    Manifest,
    ShardInfo,
    TokenizerInfo,
)
from raydistill.data.storage import Folder, HashingStream, sibling

ROW_GROUP_ROWS = 1000
ROWS_PER_SHARD = 65_000


class CorpusWriter:
    """Collects rows of token ids in order and writes them as a corpus.

    Use it as a context manager and call ``finish`` last. On a local path all files are written to a folder beside
    ``uri`` that is renamed at the end; on other storage the manifest, without which a folder is no corpus, is
    written last. Rows given after an error, or a process that dies, leave no finished corpus.
    """

    def __init__(self, uri: str, *, vocab_size: int, rows_per_shard: int = ROWS_PER_SHARD) -> None:
        if rows_per_shard < 1:
            raise ValueError(f"rows_per_shard is {rows_per_shard}; give at least 1")
        self._target = Folder(uri)
        self._folder = (
            Folder(sibling(uri, f".writing-{uuid.uuid4().hex[:8]}")) if self._target.is_local else self._target
        )
        if self._folder is self._target:
            self._target.delete()
        self.dtype = np.dtype(np.uint16 if vocab_size <= 2**16 else np.int32)
        self._rows_per_shard = rows_per_shard
        self._group: list[NDArray[np.integer]] = []
        self._lengths: list[NDArray[np.int32]] = []
        self._token_counts = np.zeros(vocab_size, dtype=np.int64)
        self._shards: list[ShardInfo] = []
        self._open: tuple[pq.ParquetWriter, HashingStream] | None = None
        self._shard_rows = 0
        self._written = 0
        self.tokens = 0

    @property
    def rows(self) -> int:
        """Rows given so far."""
        return self._written + len(self._group)

    def __enter__(self) -> "CorpusWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._open is not None:
            self._open[0].close()
            self._open[1].close()
        if self._folder is not self._target or error is not None:
            self._folder.delete()

    def add(self, rows: Iterable[NDArray[np.integer]]) -> None:
        """Append rows; raises ValueError for an id outside the vocabulary."""
        for row in rows:
            self._group.append(row)
            if len(self._group) == min(ROW_GROUP_ROWS, self._rows_per_shard - self._shard_rows):
                self._write_group()

    def write_tokenizer(self, files: Mapping[str, bytes]) -> dict[str, str]:
        """Store the tokenizer's files and return the SHA-256 of each."""
        return {name: self._folder.write_bytes(f"{TOKENIZER}/{name}", content) for name, content in files.items()}

    def finish(
        self,
        *,
        tokenizer: TokenizerInfo,
        encoding: Mapping[str, Any],
        source: Mapping[str, Any],
        fingerprints: Mapping[str, str],
        split: Mapping[str, Any],
    ) -> Manifest:
        """Write what is left, the lengths, the counts and the manifest, and give the folder its name."""
        if self._group:
            self._write_group()
        self._close_shard()
        lengths = np.concatenate(self._lengths) if self._lengths else np.empty(0, dtype=np.int32)
        files = {
            LENGTHS: self._write_array(LENGTHS, lengths),
            TOKEN_COUNTS: self._write_array(TOKEN_COUNTS, self._token_counts),
        }
        manifest = Manifest(
            version=FORMAT_VERSION,
            rows=self.rows,
            tokens=self.tokens,
            dtype=self.dtype.name,
            row_group_rows=ROW_GROUP_ROWS,
            shards=self._shards,
            files=files,
            tokenizer=tokenizer,
            encoding=dict(encoding),
            source=dict(source),
            fingerprints=dict(fingerprints),
            split=dict(split),
        )
        self._folder.write_bytes(MANIFEST, manifest.model_dump_json(indent=1).encode())
        if self._folder is not self._target:
            self._folder.replace(self._target)
        return manifest

    def _write_group(self) -> None:
        ids, lengths = self._checked_group()
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        columns = {
            "row_id": pa.array(np.arange(self._written, self._written + len(lengths))),
            "input_ids": pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids.astype(self.dtype))),
            "length": pa.array(lengths),
        }
        table = pa.table(columns)
        if self._open is None:
            stream = self._folder.open_output(self._shard_file())
            self._open = (pq.ParquetWriter(stream, table.schema, compression="zstd"), stream)
        self._open[0].write_table(table, row_group_size=ROW_GROUP_ROWS)
        self._lengths.append(lengths)
        self._token_counts += np.bincount(ids, minlength=len(self._token_counts))
        self._written += len(lengths)
        self.tokens += len(ids)
        self._shard_rows += len(lengths)
        self._group = []
        if self._shard_rows == self._rows_per_shard:
            self._close_shard()

    def _checked_group(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        ids = np.concatenate(self._group).astype(np.int64)
        vocab_size = len(self._token_counts)
        if len(ids) and not (ids.min() >= 0 and ids.max() < vocab_size):
            raise ValueError(
                f"the tokenizer gave id {ids.max()} but its vocabulary has {vocab_size} entries; "
                "repair the tokenizer's files"
            )
        lengths = np.fromiter(map(len, self._group), dtype=np.int32, count=len(self._group))
        if not lengths.all():
            raise ValueError("a row without tokens cannot be stored; the encoding has to drop it")
        return ids, lengths

    def _shard_file(self) -> str:
        return f"shards/part-{len(self._shards):05d}.parquet"

    def _close_shard(self) -> None:
        if self._open is None:
            return
        parquet, stream = self._open
        parquet.close()
        stream.close()
        self._shards.append(ShardInfo(file=self._shard_file(), rows=self._shard_rows, sha256=stream.hexdigest()))
        self._open, self._shard_rows = None, 0

    def _write_array(self, name: str, array: NDArray[Any]) -> str:
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        return self._folder.write_bytes(name, buffer.getvalue())
