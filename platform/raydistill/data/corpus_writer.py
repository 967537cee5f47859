"""Writing a corpus: rows in, a finished folder out, or nothing that looks finished."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raydistill.data.corpus import (
    FORMAT_VERSION,
    LENGTHS,
    TOKEN_COUNTS,
    ColumnInfo,
    Corpus,
    Manifest,
    SourceInfo,
    TokenizerInfo,
    tokenizer_folder,
)
from raydistill.data.input_splits import Place
from raydistill.data.row_columns import check_lengths, schema_of
from raydistill.data.sealed_table import ROW_GROUP_ROWS, FileInfo
from raydistill.data.sealed_writer import Entry, Sealer, closed
from raydistill.data.shards import ShardInfo, ShardReader, ShardWriter
from raydistill.tasks._base import Column
from raydistill.user_error import UserError

ROWS_PER_SHARD = 65_000
START, END = Place(0, 0), Place(2**62, 0)


class CorpusEntry(Entry):
    """A finished shard, and the state of the corpus after its last row."""

    shard: ShardInfo
    recipe: str
    """Hash of all that the corpus's files depend on."""
    place: Place
    """The block that the shard's last row belongs to."""
    rows_of_block: int
    """How many of the block's rows are in shards by now."""
    counts: dict[str, int]
    """Texts and dropped rows of the blocks before it."""

    @property
    def identity(self) -> str:
        """The recipe."""
        return self.recipe


class CorpusWriter:
    """Collects rows of token ids in order and writes them as a corpus.

    Use it as a context manager and call ``finish`` last. On a local path all files are written to the folder
    ``<uri>.writing``, which is renamed at the end; on other storage the manifest, without which a folder is no
    corpus, is written last. Rows given after an error, or a process that dies, leave no finished corpus.

    With a ``recipe``, a hash of all that the rows depend on, the finished shards of an interrupted writer of the same
    recipe are kept: ``start`` is the block from which on rows are missing, earlier rows are left out when they are
    given again, and a finished corpus of the recipe is left as it is, with ``start`` beyond every block.
    ``token_counts`` (vocab_size,) stand in the corpus in place of its own.
    """

    def __init__(
        self,
        uri: str,
        *,
        vocab_size: int,
        rows_per_shard: int = ROWS_PER_SHARD,
        recipe: str | None = None,
        columns: Mapping[str, Column] | None = None,
        token_counts: NDArray[np.int64] | None = None,
    ) -> None:
        if rows_per_shard < 1:
            raise UserError(f"rows_per_shard is {rows_per_shard}; give at least 1")
        self._sealer = Sealer(uri, Corpus, CorpusEntry, identity=recipe, is_renamed=True)
        self._folder = self._sealer.folder
        self.dtype = np.dtype(np.uint16 if vocab_size <= 2**16 else np.int32)
        self._rows_per_shard = rows_per_shard
        self._recipe = recipe
        self._columns = dict(columns or {})
        self._group: list[tuple[NDArray[np.integer], NDArray[np.int32], pa.Table | None]] = []
        self._group_rows = 0
        self._token_counts = np.zeros(vocab_size, dtype=np.int64)
        self._given_counts = token_counts
        self._shards: list[ShardInfo] = []
        self._shard: ShardWriter | None = None
        self._written = 0
        self.tokens = 0
        self.counts: Counter[str] = Counter()
        """Texts, and dropped rows by reason, as ``add`` was told."""
        self.start = START
        self._skip = 0
        self.is_finished = False
        self._take_over()
        self.taken_over = self.rows
        """Rows that an earlier writer of the recipe has left."""

    @property
    def rows(self) -> int:
        """Rows in the corpus so far."""
        return self._written + self._group_rows

    def __enter__(self) -> "CorpusWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._shard is not None:
            self._shard.abort()
        can_be_resumed = self._recipe is not None and self._shards
        if not self.is_finished and not can_be_resumed:
            self._folder.delete()

    def add(
        self,
        ids: NDArray[np.integer],
        lengths: NDArray[np.int32],
        *,
        place: Place = START,
        counts: Mapping[str, int] | None = None,
        values: pa.Table | None = None,
    ) -> None:
        """Append the rows of a block, their ids end to end; blocks come in the order of their places.

        ``values`` has the corpus's columns. Raises ValueError for an id outside the vocabulary, for a row without
        tokens, and for values that do not fit the columns.
        """
        if place < self.start:
            return
        self._check_values(values, lengths)
        done = self._skip if place == self.start else 0
        first = int(lengths[:done].sum())
        while done < len(lengths):
            in_shard = self._shard.rows if self._shard else 0
            room = min(ROW_GROUP_ROWS, self._rows_per_shard - in_shard) - self._group_rows
            taken = lengths[done : done + room]
            stop = first + int(taken.sum())
            self._group.append((ids[first:stop], taken, None if values is None else values.slice(done, len(taken))))
            self._group_rows += len(taken)
            first, done = stop, done + len(taken)
            if len(taken) == room:
                self._write_group()
                if self._shard is not None and self._shard.rows == self._rows_per_shard:
                    self._close_shard(place, done)
        self.counts.update(counts or {})

    def _check_values(self, values: pa.Table | None, lengths: NDArray[np.int32]) -> None:
        if not self._columns:
            assert values is None, "a corpus without columns was given values"
            return
        expected = schema_of(self._columns)
        if values is None or values.schema != expected or len(values) != len(lengths):
            found = "none" if values is None else f"{len(values)} rows of {', '.join(values.column_names)}"
            raise UserError(f"values are {found}; the corpus takes {len(lengths)} of {', '.join(self._columns)}")
        check_lengths(values, self._columns, lengths)

    def finish(
        self,
        *,
        tokenizer: TokenizerInfo,
        tokenizer_files: Mapping[str, bytes],
        encoding: Mapping[str, Any],
        sources: Sequence[SourceInfo],
        split: Mapping[str, Any],
        further: Sequence[tuple[TokenizerInfo, Mapping[str, bytes]]] = (),
    ) -> None:
        """Write what is left, the lengths, the counts and the manifest, and give the folder its name.

        ``further`` are the tokenizers whose ids are in columns, each with its files.
        """
        if self.is_finished:
            return
        if self._group:
            self._write_group()
        self._close_shard(END, 0)
        for number, files in enumerate([tokenizer_files, *(files for _, files in further)]):
            for name, content in files.items():
                self._folder.write_bytes(f"{tokenizer_folder(number)}/{name}", content)
        manifest = Manifest(
            version=FORMAT_VERSION,
            rows=self.rows,
            tokens=self.tokens,
            dtype=self.dtype.name,
            columns={name: ColumnInfo.of(column) for name, column in self._columns.items()},
            row_group_rows=ROW_GROUP_ROWS,
            shards=self._shards,
            files={LENGTHS: self._write_lengths(), TOKEN_COUNTS: self._write_token_counts()},
            tokenizer=tokenizer,
            teacher_tokenizers=[info for info, _ in further],
            encoding=dict(encoding),
            sources=list(sources),
            split=dict(split),
            counts=dict(sorted(self.counts.items())),
            recipe=self._recipe,
        )
        self._sealer.seal(manifest)
        self.is_finished = True

    def _take_over(self) -> None:
        """Count what an earlier writer of the same recipe left."""
        finished = self._sealer.finished
        if finished is not None:
            self._written, self.tokens, self.start = len(finished), finished.manifest.tokens, END
            self.counts.update(finished.manifest.counts)
            self.is_finished = True
        for entry in self._sealer.entries:
            self._take_over_shard(entry)

    def _take_over_shard(self, entry: CorpusEntry) -> None:
        with ShardReader(self._folder, entry.shard) as reader:
            for ids, _ in reader.read_ids(range(reader.num_groups)):
                self._count(ids)
        self._shards.append(entry.shard)
        self._written += entry.shard.rows
        self.start, self._skip, self.counts = entry.place, entry.rows_of_block, Counter(entry.counts)

    def _write_group(self) -> None:
        ids = np.concatenate([ids for ids, _, _ in self._group])
        lengths = np.concatenate([lengths for _, lengths, _ in self._group])
        values = pa.concat_tables([values for _, _, values in self._group]) if self._columns else None
        if len(ids) and not (ids.min() >= 0 and ids.max() < len(self._token_counts)):
            raise UserError(
                f"the tokenizer gave id {ids.max()} but its vocabulary has {len(self._token_counts)} entries; "
                "repair the tokenizer's files"
            )
        if not lengths.all():
            raise UserError("a row without tokens cannot be stored; the encoding has to drop it")
        if self._shard is None:
            file = f"shards/part-{len(self._shards):05d}.parquet"
            self._shard = ShardWriter(self._folder, file, self.dtype, self._columns)
        self._shard.write(self._written, ids, lengths, values)
        self._count(ids)
        self._written += len(lengths)
        self._group, self._group_rows = [], 0

    def _count(self, ids: NDArray[np.integer]) -> None:
        self._token_counts += np.bincount(ids, minlength=len(self._token_counts))
        self.tokens += len(ids)

    def _close_shard(self, place: Place, rows_of_block: int) -> None:
        if self._shard is None:
            return
        info = self._shard.close()
        self._shard = None
        self._shards.append(info)  # Before the entry: a stop while it is written must not delete the shard.
        if self._recipe is not None:
            entry = CorpusEntry(
                recipe=self._recipe, shard=info, place=place, rows_of_block=rows_of_block, counts=dict(self.counts)
            )
            self._sealer.write_entry(len(self._shards) - 1, entry)

    def _write_lengths(self) -> FileInfo:
        """The lengths of all rows, copied from the shards, so that they are never held as a whole."""
        stream = self._folder.open_output(LENGTHS)
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.int32)), "fortran_order": False}
        np.lib.format.write_array_header_1_0(stream, {**header, "shape": (self._written,)})
        for shard in self._shards:
            with ShardReader(self._folder, shard) as reader:
                stream.write(reader.read_lengths())
        return closed(stream)

    def _write_token_counts(self) -> FileInfo:
        buffer = io.BytesIO()
        counts = self._token_counts if self._given_counts is None else self._given_counts
        np.save(buffer, counts, allow_pickle=False)
        stream = self._folder.open_output(TOKEN_COUNTS)
        stream.write(buffer.getvalue())
        return closed(stream)
