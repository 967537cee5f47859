"""An encoded corpus: Parquet shards, a file of lengths, and a manifest that makes it a corpus.

A corpus folder holds::

    manifest.json              what follows, and the SHA-256 of each file; written last
    lengths.npy                length of each row, int32; the manifest has a SHA-256 of each shard's part
    token_counts.npy           occurrences of each vocabulary id, int64
    shards/part-00000.parquet  row_id int64, input_ids list<uint16 | int32>, length int32, the task's columns
    tokenizer/                 the tokenizer's own files, so that the corpus can be used alone
    tokenizer_1/               those of the first teacher tokenizer, and so on
"""

import hashlib
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from operator import itemgetter
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel

from raydistill.data.lengths import Lengths
from raydistill.data.row_columns import schema_of
from raydistill.data.sealed_table import (
    CACHE_BYTES,
    FileInfo,
    Kind,
    Places,
    Recent,
    Record,
    SealedFolder,
    SealedTable,
    Use,
)
from raydistill.data.sealed_table import MANIFEST as MANIFEST
from raydistill.data.shards import ShardInfo, ShardReader
from raydistill.data.storage import join
from raydistill.tasks._base import Column, Encoding
from raydistill.tasks._tokenizing import filler_id, role_ids

LENGTHS = "lengths.npy"
TOKEN_COUNTS = "token_counts.npy"
TOKENIZER = "tokenizer"
FORMAT_VERSION = 4
_ROLES = ("pad", "unk", "cls", "sep", "mask", "eos")
_OPEN_SHARDS = 16
_Arrays = tuple[NDArray[Any], NDArray[Any]]


class SourceInfo(Record):
    """Where texts of a corpus came from."""

    source: dict[str, Any]
    """Section of the source."""
    weight: float
    """How often each of its texts entered."""
    fingerprints: dict[str, str]
    """What identifies each item that was read, by the item's name."""


class ColumnInfo(Record):
    """What each row has beside its ids, see ``tasks._base.Column``."""

    dtype: str
    per: Literal["row", "token", "list"]

    @classmethod
    def of(cls, column: Column) -> "ColumnInfo":
        """The record of a task's column."""
        return cls(dtype=column.dtype, per=column.per)


class TokenizerInfo(Record):
    """What tasks and checks need to know of the tokenizer that made the ids."""

    hash: str
    vocab_size: int
    special_ids: dict[str, int]
    """Ids of ``_ROLES``, as far as the tokenizer has them; older corpora lack eos."""
    all_special_ids: list[int]
    max_length: int
    """Longest row, special tokens included."""
    files: dict[str, str]
    """SHA-256 of each file in its folder."""

    @property
    def pad_id(self) -> int:
        """Id that fills short rows."""
        return filler_id(self.special_ids)


class _Versioned(BaseModel):
    version: int


class Manifest(Record):
    """The table of contents of a corpus; a folder without one is not a corpus."""

    version: int
    rows: int
    tokens: int
    dtype: str
    """Type of the ids, ``uint16`` or ``int32``."""
    columns: dict[str, ColumnInfo] = {}
    """What each row has beside its ids."""
    row_group_rows: int
    """Rows of every row group but the last of a shard."""
    shards: list[ShardInfo]
    files: dict[str, FileInfo]
    """The lengths and the token counts."""
    tokenizer: TokenizerInfo
    teacher_tokenizers: list[TokenizerInfo] = []
    """Those whose ids the rows have in columns beside."""
    encoding: dict[str, Any]
    """Task and options that encoded the texts."""
    sources: list[SourceInfo]
    split: dict[str, Any]
    """Which part of the sources' rows this corpus holds."""
    counts: dict[str, int]
    """Texts of this part, and rows that were dropped by reason."""
    recipe: str | None
    """Hash of all that the files depend on; None for a corpus that was not made by binarize."""


def tokenizer_info(tokenizer: Any, *, max_length: int, files: Mapping[str, str]) -> TokenizerInfo:
    """Describe a fast tokenizer; ``files`` maps the names of its saved files to their SHA-256."""
    return TokenizerInfo(
        hash=tokenizer_hash(tokenizer),
        vocab_size=len(tokenizer),
        special_ids=role_ids(tokenizer, _ROLES),
        all_special_ids=sorted(int(token) for token in tokenizer.all_special_ids),
        max_length=max_length,
        files=dict(files),
    )


def tokenizer_folder(encoding: int) -> str:
    """Name of the folder with the files of a corpus's own tokenizer, 0, or of a further one, from 1."""
    return f"{TOKENIZER}_{encoding}" if encoding else TOKENIZER


def tokenizer_hash(tokenizer: Any) -> str:
    """SHA-256 of what a fast tokenizer does to text: its pipeline, vocabulary and special tokens.

    Settings of padding and truncation are left out, since every caller gives its own.
    """
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    pipeline.pop("padding", None)
    pipeline.pop("truncation", None)
    content = {"pipeline": pipeline, "special": sorted(map(str, tokenizer.all_special_tokens))}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Corpus(SealedTable):
    """A finished corpus, opened for reading; rows are numbered from 0 in the order of the shards."""

    KIND = Kind(
        manifest=Manifest,
        versioned=_Versioned,
        version=FORMAT_VERSION,
        name="corpus",
        has="has",
        stage="binarize",
        again="binarize it again",
        anew="it is written anew",
        missing="is missing",
    )

    def __init__(self, folder: SealedFolder, manifest: Manifest, *, manifest_sha256: str) -> None:
        super().__init__(folder, manifest, manifest_sha256=manifest_sha256, identity=manifest.recipe)
        self.manifest = manifest
        self._ids = Recent[_Arrays](CACHE_BYTES, size=lambda arrays: sum(array.nbytes for array in arrays))
        self._values = Recent[pa.Table](CACHE_BYTES, size=lambda table: int(table.nbytes))
        self._readers = Recent[ShardReader](_OPEN_SHARDS)

    @property
    def _other_files(self) -> Mapping[str, FileInfo]:
        return self.manifest.files

    @property
    def tokenizer_uri(self) -> str:
        """Folder with the files of the tokenizer that made the ids."""
        return join(self.uri, TOKENIZER)

    @property
    def tokenizers(self) -> tuple[TokenizerInfo, ...]:
        """Of each encoding: the tokenizer that made the ids, then the further ones."""
        return (self.manifest.tokenizer, *self.manifest.teacher_tokenizers)

    @cached_property
    def lengths(self) -> Lengths:
        """Length of each row, special tokens included; reading some raises ValueError when their part was changed."""
        return Lengths(self._lengths_of, self.shard_offsets)

    @cached_property
    def token_counts(self) -> NDArray[np.int64]:
        """How often each vocabulary id occurs, special tokens included; raises ValueError when the file was changed."""
        return self._array(TOKEN_COUNTS)

    @cached_property
    def encoding(self) -> Encoding:
        """What a task needs to know of the tokenizer and the corpus."""
        tokenizer = self.manifest.tokenizer
        return Encoding(
            vocab_size=tokenizer.vocab_size,
            special_ids=dict(tokenizer.special_ids),
            all_special_ids=tuple(tokenizer.all_special_ids),
            max_length=tokenizer.max_length,
            token_counts=self.token_counts,
            num_rows=len(self),
            labels=tuple(self.manifest.encoding.get("labels") or ()),
        )

    @cached_property
    def columns(self) -> dict[str, Column]:
        """What each row has beside its ids."""
        return {name: Column(info.dtype, info.per) for name, info in self.manifest.columns.items()}

    @property
    def pad_id(self) -> int:
        """Id that fills short rows."""
        return self.manifest.tokenizer.pad_id

    def read_rows(self, rows: Sequence[int] | NDArray[np.integer]) -> list[NDArray[np.integer]]:
        """The token ids of these rows, in the order asked for, as copies.

        Only the row groups that hold them are read, each once; the last ones read stay in memory, see ``Recent``.
        """
        result: list[NDArray[np.integer]] = [np.empty(0, dtype=np.int32)] * len(rows)
        groups = self.groups_of(rows, group_rows=self.manifest.row_group_rows)
        for shard, of_shard in itertools.groupby(groups, key=itemgetter(0)):
            asked = list(of_shard)
            found = self._row_groups(shard, [group for _, group, _, _ in asked])
            for (_, _, places, within), (values, offsets) in zip(asked, found, strict=True):
                starts, stops = offsets[within].tolist(), offsets[within + 1].tolist()
                for place, start, stop in zip(places.tolist(), starts, stops, strict=True):
                    # A view would keep the whole row group in memory.
                    result[place] = values[start:stop].copy()
        return result

    def read_columns(self, rows: Sequence[int] | NDArray[np.integer]) -> pa.Table:
        """What these rows have beside their ids, in the order asked for; one column for each of ``columns``."""
        pieces, found = [], []
        for shard, group, places, within in self.groups_of(rows, group_rows=self.manifest.row_group_rows):
            read = partial(self._reader(shard).read_columns, group, self.columns)
            pieces.append(self._values.get((shard, group), read).take(within))
            found.append(places)
        if not pieces:
            return schema_of(self.columns).empty_table()
        return pa.concat_tables(pieces).take(np.argsort(np.concatenate(found)))

    def begin(self, use: Use, *, oldest: Use) -> None:
        """What is read from now on is for this use, see ``Recent``."""
        self._ids.begin(use, oldest=oldest)
        self._values.begin(use, oldest=oldest)

    def located(self, rows: Places) -> tuple[Places, Places]:
        """The part of each row, here the only one, and its number there; a mixture has several parts."""
        return np.zeros_like(rows), rows

    def verify(self) -> None:
        """As of every table; the files of the tokenizers are compared too."""
        for encoding, tokenizer in enumerate(self.tokenizers):
            for name, digest in tokenizer.files.items():
                self._folder.check_content(f"{tokenizer_folder(encoding)}/{name}", digest)
        super().verify()

    def _row_groups(self, shard: int, groups: Sequence[int]) -> list[_Arrays]:
        keys = [(shard, group) for group in groups]
        return self._ids.get_all(keys, lambda missing: self._reader(shard).read_ids([group for _, group in missing]))

    def _reader(self, shard: int) -> ShardReader:
        return self._readers.get(shard, lambda: ShardReader(self._folder, self.manifest.shards[shard]))

    def _lengths_of(self, shard: int) -> NDArray[np.int32]:
        info, size = self.manifest.shards[shard], np.dtype(np.int32).itemsize
        # The lengths are what the file ends with, after a header of NumPy's.
        start = self.manifest.files[LENGTHS].bytes - size * int(self.shard_offsets[-1] - self.shard_offsets[shard])
        content = self._folder.read_part(LENGTHS, start, size * info.rows, info.lengths_sha256)
        return np.frombuffer(content, dtype=np.int32)

    def _array(self, name: str) -> NDArray[Any]:
        self._folder.check_content(name, self.manifest.files[name].sha256)
        array: NDArray[Any] = np.load(io.BytesIO(self._folder.read_bytes(name)), allow_pickle=False)
        return array
