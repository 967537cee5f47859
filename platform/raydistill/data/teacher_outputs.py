"""What a teacher said of the rows of a corpus, stored once: Arrow files in the corpus's shards and row order.

The outputs of one teacher for one corpus are a set. Its folder holds::

    manifest.json             what follows, and the SHA-256 of each file; written last
    digests.txt               16 digits for each record batch; the manifest has a SHA-256 of each shard's part
    shards/part-00000.arrow   row_id int64 and the columns below, in record batches of 1,000 rows

Columns by kind (C classes, L layers, H the width of the states, m places of a row, k likeliest ids):

================== =============================================================== ==================================
``logits``         ``logits`` (C,) float32                                         those that the teacher knows, in
                                                                                   the corpus's order
``cls_states``     ``cls_states`` (L, H) float16 or float32                        of the layers, as listed
``dropout_scores`` ``dropout_scores`` () float32                                   see ``models/dropout_scores.py``
``top_k``          ``top_k_ids`` (m, k), ``top_k_log_probs`` (m, k) float16,       see ``losses/top_k.py``; of each
                   ``top_k_log_tails`` (m,) float16                                token of a causal model's row, of
                                                                                   instructions of each predicted one
of masked models   ``top_k_places`` (m,), ``top_k_inputs`` (m,)                    positions that are masked, and the
                                                                                   ids that the teacher read there
================== =============================================================== ==================================

A float16 differs from a log-probability by 2 ** -11 of it at most; the least one is -65,504.

Local files without compression are mapped, not read: a row costs the pages it lies in. What is read of a record batch
is compared with its digest when the batch is opened first.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel
from pydantic.dataclasses import dataclass as pydantic_dataclass

from raydistill.data.sealed_table import (
    CACHE_BYTES,
    ROW_GROUP_ROWS,
    STRICT,
    FileInfo,
    Kind,
    Places,
    Recent,
    Record,
    SealedFolder,
    SealedTable,
    Shard,
    Use,
)
from raydistill.data.sealed_table import MANIFEST as MANIFEST
from raydistill.user_error import UserError

FORMAT_VERSION = 3
"""Counts what changed in the files, and in what is asked of teachers: since 2 the state that stands for a row of a
decoder is the one that transformers takes."""
DIGESTS = "digests.txt"
DIGEST_DIGITS = 16
KINDS = ("logits", "cls_states", "dropout_scores", "top_k")
ROW_ID = "row_id"
_OPEN_SHARDS = 64

Values = dict[str, Any]
"""By column: an array (B, ...), or for a column of places a list of B arrays (m, ...)."""


class OutputColumn(Record):
    """What a set has of each row, or of each place of it that is kept: the masked ones, or all."""

    dtype: str
    shape: tuple[int, ...] = ()
    per: Literal["row", "place"] = "row"

    @property
    def size(self) -> int:
        """Numbers of a row, or of a place."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def num_bytes(self) -> int:
        """Bytes of a row, or of a place."""
        return self.size * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class OutputSpec:
    """What of a teacher's outputs is stored."""

    kinds: tuple[str, ...]
    layers: tuple[int, ...]
    """Numbers k of hidden states hs[k], for ``cls_states``."""
    dtype: str
    """Type of these states."""
    top_k: int
    """Likeliest ids at a place."""
    masked: bool = True
    """Whether these places are the masked ones; otherwise they are all."""

    def columns(self, *, num_classes: int, hidden_size: int, vocab_size: int) -> dict[str, OutputColumn]:
        """The columns of a teacher's set."""
        ids = "uint16" if vocab_size <= 2**16 else "int32"
        by_kind = {
            "logits": {"logits": OutputColumn(dtype="float32", shape=(num_classes,))},
            "cls_states": {"cls_states": OutputColumn(dtype=self.dtype, shape=(len(self.layers), hidden_size))},
            "dropout_scores": {"dropout_scores": OutputColumn(dtype="float32")},
            "top_k": {
                **({"top_k_places": OutputColumn(dtype="int32", per="place")} if self.masked else {}),
                **({"top_k_inputs": OutputColumn(dtype=ids, per="place")} if self.masked else {}),
                "top_k_ids": OutputColumn(dtype=ids, shape=(self.top_k,), per="place"),
                "top_k_log_probs": OutputColumn(dtype="float16", shape=(self.top_k,), per="place"),
                "top_k_log_tails": OutputColumn(dtype="float16", per="place"),
            },
        }
        return {name: column for kind in KINDS if kind in self.kinds for name, column in by_kind[kind].items()}


class Header(Record):
    """What a set depends on: two sets with equal headers hold equal outputs."""

    version: int = FORMAT_VERSION
    teacher: str
    """How the teacher was named."""
    teacher_hash: str
    """SHA-256 over its checkpoint's files."""
    tokenizer_hash: str
    corpus_hash: str
    rows: int
    task: dict[str, Any]
    """Section of the task that prepared the rows."""
    labels: tuple[str, ...]
    """Names of the classes in the order of the logits, that of the corpus, of which the teacher may know a part; none
    for scores and vocabularies."""
    names: tuple[str | None, ...] = ()
    """What the checkpoint's own outputs were said to be, where its configuration does not name them; null for one that
    was left out."""
    kinds: tuple[str, ...]
    layers: tuple[int, ...]
    """Numbers k of the hidden states hs[k] whose CLS states are stored, in their order."""
    columns: dict[str, OutputColumn]
    codec: Literal["none", "lz4", "zstd"]
    precision: str
    """What the teacher computed in."""
    options: dict[str, Any]
    """What else decides: seeds, passes, the size of batches."""

    def columns_of(self, kind: str) -> list[str]:
        """Names of the columns of a kind."""
        return [name for name in self.columns if name == kind or name.startswith(f"{kind}_")]

    @property
    def hash(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


@pydantic_dataclass(frozen=True, slots=True, config=STRICT)
class SetShard(Shard):
    """One file of a set, and what tells it from any other."""

    digests_sha256: str
    """SHA-256 of the digests of its record batches, end to end."""


class Manifest(Record):
    """The table of contents of a set; a folder without one is not a set."""

    header: Header
    shards: tuple[SetShard, ...]
    digests: FileInfo
    """The file of digests."""


class _Versioned(BaseModel):
    header: dict[str, Any]

    @property
    def version(self) -> Any:
        return self.header.get("version")


def schema_of(columns: Mapping[str, OutputColumn]) -> pa.Schema:
    """The Arrow schema of a set's files."""
    types = {name: _arrow_type(column) for name, column in columns.items()}
    return pa.schema({ROW_ID: pa.int64(), **types})


def _arrow_type(column: OutputColumn) -> pa.DataType:
    value = pa.from_numpy_dtype(np.dtype(column.dtype))
    return pa.list_(value, column.size) if column.per == "row" else pa.list_(value)


def record_batch(row_ids: NDArray[np.int64], values: Mapping[str, Any], columns: Mapping[str, OutputColumn]) -> Any:
    """The outputs of some rows as one record batch."""
    arrays = [pa.array(row_ids)]
    for name, column in columns.items():
        assert len(values[name]) == len(row_ids), f"{name} has {len(values[name])} of {len(row_ids)} rows"
        arrays.append(_array(values[name], column))
    return pa.record_batch(arrays, schema=schema_of(columns))


def _array(values: Any, column: OutputColumn) -> pa.Array:
    if column.per == "row":
        with np.errstate(over="ignore"):
            flat = np.ascontiguousarray(values, dtype=column.dtype).reshape(-1)
        if flat.dtype == np.float16 and not np.isfinite(flat).all():
            raise UserError("dtype is float16, but a state is beyond its largest number, 65,504; write dtype: float32")
        return pa.FixedSizeListArray.from_arrays(pa.array(flat), column.size)
    parts = [np.asarray(value, dtype=column.dtype).reshape(-1) for value in values]
    offsets = np.cumsum([0, *map(len, parts)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate([np.empty(0, column.dtype), *parts])))


def digest_of(batch: Any) -> str:
    """16 digits that tell the values of a record batch from any others."""
    content = hashlib.sha256()
    for array in batch.columns:
        if pa.types.is_list(array.type):
            content.update(array.value_lengths().to_numpy().data)
        flat = array if pa.types.is_integer(array.type) else array.flatten()
        content.update(np.ascontiguousarray(flat.to_numpy()).data)
    return content.hexdigest()[:DIGEST_DIGITS]


class OutputSet(SealedTable):
    """A finished set, opened for reading; rows are numbered as those of its corpus."""

    KIND = Kind(
        manifest=Manifest,
        versioned=_Versioned,
        version=FORMAT_VERSION,
        name="teacher outputs",
        has="have",
        stage="capture",
        again="capture them again",
        anew="they are captured anew",
        missing="has 0 bytes, its manifest says {bytes}",
    )

    def __init__(self, folder: SealedFolder, manifest: Manifest, *, manifest_sha256: str) -> None:
        super().__init__(folder, manifest, manifest_sha256=manifest_sha256, identity=manifest.header.hash)
        self.header = manifest.header
        self.shards = manifest.shards
        self._digests = manifest.digests
        self._is_mapped = is_mapped = folder.is_local and self.header.codec == "none"
        num_batches = [-(-shard.rows // ROW_GROUP_ROWS) for shard in manifest.shards]
        self._first_batch = np.cumsum([0, *num_batches], dtype=np.int64)
        self._opened = Recent[_OpenShard](_OPEN_SHARDS)
        # Mapped batches take no memory of their own.
        self._batches = Recent[Any](CACHE_BYTES, size=lambda batch: 0 if is_mapped else batch.nbytes)

    @property
    def _other_files(self) -> Mapping[str, FileInfo]:
        return {DIGESTS: self._digests}

    def read(self, rows: Sequence[int] | NDArray[np.integer], names: Sequence[str] | None = None) -> Values:
        """The named columns, by default all, of these rows in the order asked for; of the stored type.

        Raises ValueError for values that are not those that were written, and where a row has another's id.
        """
        asked = np.asarray(rows, dtype=np.int64)
        wanted = {name: self.header.columns[name] for name in names or self.header.columns}
        found: Values = {
            name: np.empty((len(asked), *column.shape), dtype=column.dtype)
            if column.per == "row"
            else [np.empty((0, *column.shape), dtype=column.dtype)] * len(asked)
            for name, column in wanted.items()
        }
        for shard, number, places, within in self.groups_of(asked):
            batch = self._batch(shard, number)
            self._check_ids(shard, batch, asked[places], within)
            for name, column in wanted.items():
                _take(batch.column(name), column, within, found[name], places)
        return found

    def begin(self, use: Use, *, oldest: Use) -> None:
        """What is read from now on is for this use, see ``Recent``."""
        self._batches.begin(use, oldest=oldest)

    def _check_ids(self, shard: int, batch: Any, asked: Places, within: Places) -> None:
        stored = batch.column(ROW_ID).to_numpy()[within]
        if not np.array_equal(stored, asked):
            first = int(np.flatnonzero(stored != asked)[0])
            what = f"has row {stored[first]} where row {asked[first]} of the corpus belongs"
            raise self._folder.fault(self.shards[shard].file, what)

    def _batch(self, shard: int, number: int) -> Any:
        return self._batches.get((shard, number), lambda: self._read_batch(shard, number))

    def _read_batch(self, shard: int, number: int) -> Any:
        name = self.shards[shard].file
        with self._folder.named_errors(name):
            opened = self._opened.get(shard, lambda: self._open_shard(shard))
            batch = opened.file.get_batch(number)
            if digest_of(batch) != opened.digests[number]:
                raise self._folder.fault(name, "has other values than those that were written")
        return batch

    def _open_shard(self, shard: int) -> "_OpenShard":
        name, digests = self.shards[shard].file, self._digests_of(shard)
        stream = pa.memory_map(self._folder.full_path(name)) if self._is_mapped else self._folder.open_input(name)
        return _OpenShard(pa.ipc.open_file(stream), stream, digests)

    def _digests_of(self, shard: int) -> list[str]:
        """The digest of each record batch of a shard."""
        first, stop = (DIGEST_DIGITS * int(place) for place in self._first_batch[shard : shard + 2])
        content = self._folder.read_part(DIGESTS, first, stop - first, self.shards[shard].digests_sha256)
        return [content[place : place + DIGEST_DIGITS].decode() for place in range(0, len(content), DIGEST_DIGITS)]


@dataclass(frozen=True)
class _OpenShard:
    file: Any
    stream: Any
    """Kept, as the file reads from it."""
    digests: list[str]


def _take(array: Any, column: OutputColumn, within: NDArray[np.int64], found: Any, places: NDArray[np.int64]) -> None:
    """Write the values of some rows of a record batch to their places in what is handed out."""
    flat = array.flatten().to_numpy()
    if column.per == "row":
        found[places] = flat.reshape(-1, *column.shape)[within]
        return
    lengths = array.value_lengths().to_numpy().astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    for place, row in zip(places.tolist(), within.tolist(), strict=True):
        # A view would keep the whole batch in memory.
        found[place] = flat[starts[row] : starts[row] + lengths[row]].copy().reshape(-1, *column.shape)
