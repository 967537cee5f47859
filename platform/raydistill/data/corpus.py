"""An encoded corpus: Parquet shards, a file of lengths, and a manifest that makes it a corpus.

A corpus folder holds::

    manifest.json              what follows, and the SHA-256 of each file; written last
    lengths.npy                length of each row, int32
    token_counts.npy           occurrences of each vocabulary id, int64
    shards/part-00000.parquet  row_id int64, input_ids list<uint16 | int32>, length int32, the task's columns
    tokenizer/                 the tokenizer's own files, so that the corpus can be used alone
    tokenizer_1/               those of the first further tokenizer, and so on
"""

import hashlib
import io
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from raydistill.data.row_columns import schema_of
from raydistill.data.shards import ShardInfo, ShardReader, check_content, check_sizes
from raydistill.data.storage import Folder, join
from raydistill.tasks._base import Column, Encoding

MANIFEST = "manifest.json"
LENGTHS = "lengths.npy"
TOKEN_COUNTS = "token_counts.npy"
TOKENIZER = "tokenizer"
FORMAT_VERSION = 3
_CACHE_BYTES = 64_000_000
_OPEN_SHARDS = 16
_OPEN_TABLES = 256
_Places = NDArray[np.int64]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileInfo(_Record):
    """A file of a corpus that is no shard."""

    bytes: int
    sha256: str


class SourceInfo(_Record):
    """Where texts of a corpus came from."""

    source: dict[str, Any]
    """Section of the source."""
    weight: float
    """How often each of its texts entered."""
    fingerprints: dict[str, str]
    """What identifies each item that was read, by the item's name."""


class ColumnInfo(_Record):
    """What each row has beside its ids, see ``tasks._base.Column``."""

    dtype: str
    per: Literal["row", "token", "list"]

    @classmethod
    def of(cls, column: Column) -> "ColumnInfo":
        """The record of a task's column."""
        return cls(dtype=column.dtype, per=column.per)


class TokenizerInfo(_Record):
    """What tasks and checks need to know of the tokenizer that made the ids."""

    hash: str
    vocab_size: int
    special_ids: dict[str, int]
    """Ids of the roles pad, unk, cls, sep, mask, as far as the tokenizer has them."""
    all_special_ids: list[int]
    max_length: int
    """Longest row, special tokens included."""
    files: dict[str, str]
    """SHA-256 of each file in its folder."""

    @property
    def pad_id(self) -> int:
        """Id that fills short rows: the tokenizer's pad, or its unk token where it has none."""
        return self.special_ids.get("pad", self.special_ids.get("unk", 0))


class _Versioned(BaseModel):
    version: int


class Manifest(_Record):
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
    further_tokenizers: list[TokenizerInfo] = []
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
    roles = {role: getattr(tokenizer, f"{role}_token_id", None) for role in ("pad", "unk", "cls", "sep", "mask")}
    return TokenizerInfo(
        hash=tokenizer_hash(tokenizer),
        vocab_size=len(tokenizer),
        special_ids={role: int(token) for role, token in roles.items() if token is not None},
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


class Corpus:
    """A finished corpus, opened for reading; rows are numbered from 0 in the order of the shards."""

    def __init__(self, uri: str, manifest: Manifest, *, manifest_sha256: str) -> None:
        self.uri = uri
        self.manifest = manifest
        self.hash = manifest_sha256
        """SHA-256 of the manifest, which covers every other file."""
        self._folder = Folder(uri)
        sizes = [shard.rows for shard in manifest.shards]
        self.shard_offsets: NDArray[np.int64] = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        """First row of each shard, and the number of rows at the end."""
        self._groups: OrderedDict[tuple[int, int], tuple[NDArray[Any], NDArray[Any]]] = OrderedDict()
        self._cached_bytes = 0
        self._tables: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()
        self._readers: OrderedDict[int, ShardReader] = OrderedDict()

    @classmethod
    def open(cls, uri: str) -> "Corpus":
        """Read a corpus's manifest and compare the sizes of its files with it.

        Raises ValueError when ``uri`` holds no finished corpus of this version, or a file is missing or truncated.
        """
        folder = Folder(uri)
        if not folder.exists(MANIFEST):
            raise ValueError(f"corpus {uri!r} has no {MANIFEST}; give the folder of a finished binarize stage")
        content = folder.read_bytes(MANIFEST)
        manifest = _parse(content, uri)
        files = {name: info.bytes for name, info in manifest.files.items()}
        check_sizes(folder, {**files, **{shard.file: shard.bytes for shard in manifest.shards}})
        return cls(uri, manifest, manifest_sha256=hashlib.sha256(content).hexdigest())

    def __len__(self) -> int:
        return self.manifest.rows

    @property
    def tokenizer_uri(self) -> str:
        """Folder with the files of the tokenizer that made the ids."""
        return join(self.uri, TOKENIZER)

    @property
    def tokenizers(self) -> tuple[TokenizerInfo, ...]:
        """Of each encoding: the tokenizer that made the ids, then the further ones."""
        return (self.manifest.tokenizer, *self.manifest.further_tokenizers)

    @cached_property
    def lengths(self) -> NDArray[np.int32]:
        """Length of each row, special tokens included; raises ValueError when the file was changed."""
        path = self._folder.full_path(LENGTHS)
        if self._folder.is_local:
            check_content(self._folder, LENGTHS, self.manifest.files[LENGTHS].sha256)
            mapped: NDArray[np.int32] = np.load(path, mmap_mode="r", allow_pickle=False)
            return mapped
        return self._array(LENGTHS)

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

        Only the row groups that hold them are read, each once; the last ones read stay in memory, up to 64 MB.
        """
        result: list[NDArray[np.integer]] = [np.empty(0, dtype=np.int32)] * len(rows)
        for shard, group, places, within in self._by_group(rows):
            values, offsets = self._row_group(shard, group)
            starts, stops = offsets[within].tolist(), offsets[within + 1].tolist()
            for place, start, stop in zip(places.tolist(), starts, stops, strict=True):
                # A view would keep the whole row group in memory.
                result[place] = values[start:stop].copy()
        return result

    def read_columns(self, rows: Sequence[int] | NDArray[np.integer]) -> pa.Table:
        """What these rows have beside their ids, in the order asked for; one column for each of ``columns``."""
        pieces, found = [], []
        for shard, group, places, within in self._by_group(rows):
            key = (shard, group)
            if key not in self._tables:
                self._tables[key] = self._reader(shard).read_columns(group, self.columns)
                while len(self._tables) > _OPEN_TABLES:
                    self._tables.popitem(last=False)
            self._tables.move_to_end(key)
            pieces.append(self._tables[key].take(within))
            found.append(places)
        if not pieces:
            return schema_of(self.columns).empty_table()
        return pa.concat_tables(pieces).take(np.argsort(np.concatenate(found)))

    def located(self, rows: _Places) -> tuple[_Places, _Places]:
        """The part of each row, here the only one, and its number there; a mixture has several parts."""
        return np.zeros_like(rows), rows

    def _by_group(self, rows: Sequence[int] | NDArray[np.integer]) -> Iterator[tuple[int, int, _Places, _Places]]:
        """For each row group that holds some of the rows: its shard and number, their places in ``rows`` and in it."""
        indices = np.asarray(rows, dtype=np.int64)
        shards = np.searchsorted(self.shard_offsets, indices, side="right") - 1
        groups, within = np.divmod(indices - self.shard_offsets[shards], self.manifest.row_group_rows)
        order = np.lexsort((groups, shards))
        changes = np.flatnonzero((np.diff(shards[order]) != 0) | (np.diff(groups[order]) != 0)) + 1
        for places in np.split(order, changes) if len(order) else []:
            yield int(shards[places[0]]), int(groups[places[0]]), places, within[places]

    def _row_group(self, shard: int, group: int) -> tuple[NDArray[Any], NDArray[Any]]:
        key = (shard, group)
        if key not in self._groups:
            loaded = self._reader(shard).read_ids(group)
            self._groups[key] = loaded
            self._cached_bytes += sum(array.nbytes for array in loaded)
            while self._cached_bytes > _CACHE_BYTES and len(self._groups) > 1:
                _, dropped = self._groups.popitem(last=False)
                self._cached_bytes -= sum(array.nbytes for array in dropped)
        self._groups.move_to_end(key)
        return self._groups[key]

    def _reader(self, shard: int) -> ShardReader:
        if shard not in self._readers:
            self._readers[shard] = ShardReader(self._folder, self.manifest.shards[shard])
            while len(self._readers) > _OPEN_SHARDS:
                self._readers.popitem(last=False)[1].close()
        self._readers.move_to_end(shard)
        return self._readers[shard]

    def _array(self, name: str) -> NDArray[Any]:
        check_content(self._folder, name, self.manifest.files[name].sha256)
        array: NDArray[Any] = np.load(io.BytesIO(self._folder.read_bytes(name)), allow_pickle=False)
        return array

    @property
    def num_bytes(self) -> int:
        """Size of what ``verify`` reads, the tokenizer left out."""
        shards = sum(shard.bytes for shard in self.manifest.shards)
        return shards + sum(info.bytes for info in self.manifest.files.values())

    def verify(self) -> None:
        """Read every file and compare its SHA-256 with the manifest's; raises ValueError for the first that differs."""
        shards = {shard.file: shard.sha256 for shard in self.manifest.shards}
        files = {name: info.sha256 for name, info in self.manifest.files.items()}
        tokenizers = {
            f"{tokenizer_folder(encoding)}/{name}": digest
            for encoding, tokenizer in enumerate(self.tokenizers)
            for name, digest in tokenizer.files.items()
        }
        for name, expected in {**files, **tokenizers, **shards}.items():
            check_content(self._folder, name, expected)


def _parse(content: bytes, uri: str) -> Manifest:
    """The manifest of this program's version in a file's content; raises ValueError for any other."""
    try:
        version = _Versioned.model_validate_json(content).version
        if version != FORMAT_VERSION:
            raise ValueError(
                f"corpus {uri!r} has format version {version}, this program reads {FORMAT_VERSION}; binarize it again"
            )
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        found = error.errors()[0]
        place = ".".join(map(str, found["loc"])) or MANIFEST
        raise ValueError(f"corpus {uri!r}: {place}: {found['msg']}; binarize it again") from None
