"""A sealed table: rows in a folder of shards, and a manifest that is written last and covers every other file.

Corpora (``corpus.py``) and teacher outputs (``teacher_outputs.py``) are such tables. A table's hash is the SHA-256 of
its manifest, which has that of each file; a folder without manifest is no table. Shards hold row groups of one size,
the last of a shard apart, each with a digest, so that a row is read and checked without the rest of its shard.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from raydistill.data.storage import Folder
from raydistill.machine import memory_bytes
from raydistill.user_error import UserError

MANIFEST = "manifest.json"
ROW_GROUP_ROWS = 1000
"""Rows of every row group but the last of a shard."""
CACHE_BYTES = 64_000_000
"""How much of a table's row groups a process keeps in memory."""
Places = NDArray[np.int64]
Use = tuple[int, int]
"""What rows are read for: a window of a plan, by its epoch and its number there."""
NO_USE: Use = (-1, -1)
Value = TypeVar("Value")


STRICT = ConfigDict(extra="forbid")
"""Parts of manifests refuse unknown keys."""


class Record(BaseModel):
    """A frozen part of a manifest; unknown keys are refused."""

    model_config = ConfigDict(**STRICT, frozen=True)


class FileInfo(Record):
    """A file of a table, and what tells it from any other."""

    bytes: int
    sha256: str


@pydantic_dataclass(frozen=True, slots=True, config=STRICT)
class Shard:
    """A file of rows, and what tells it from any other; a table may have many, which a ``Record`` each would swell."""

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Kind:
    """What manifests of a kind of table look like, and how messages speak of it."""

    manifest: type[BaseModel]
    versioned: type[Any]
    """Reads the ``version`` of a manifest of any format."""
    version: int
    """The format that this program reads."""
    name: str
    """With its verb: such as ``corpus`` and ``has``."""
    has: str
    stage: str
    """The stage that writes it."""
    again: str
    """What to do where the whole table is needed anew."""
    anew: str
    """What is done where a table is not as it was written."""
    missing: str
    """What is said of a file that is not there; ``{bytes}`` are those that its manifest says."""


class SealedFolder(Folder):
    """The folder of a table; what is wrong with its files is told by their names."""

    def __init__(self, uri: str, kind: Kind) -> None:
        super().__init__(uri)
        self.kind = kind

    def fault(self, name: str, what: str) -> UserError:
        """The error that says what is wrong with a file, and what to do."""
        remedy = f"copy it again from where it is whole, or {self.kind.stage} it again"
        return UserError(f"{self.kind.name} {self.uri!r}: {name} {what}; {remedy}")

    @contextmanager
    def named_errors(self, name: str) -> Iterator[None]:
        """Inside, what storage and Arrow raise becomes a ValueError that names a file."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise self.fault(name, f"is damaged or cannot be read: {' '.join(str(error).split())}") from None

    def check_content(self, name: str, expected: str) -> None:
        """Compare a file's SHA-256 with what was recorded; raises ValueError naming the file."""
        with self.named_errors(name):
            self._check(name, self.sha256(name), expected)

    def read_part(self, name: str, start: int, size: int, expected: str) -> bytes:
        """Some bytes of a file, compared with their SHA-256; raises ValueError as ``check_content`` does."""
        with self.named_errors(name), self.open_input(name) as stream:
            stream.seek(start)
            content = bytes(stream.read(size))
        self._check(name, hashlib.sha256(content).hexdigest(), expected)
        return content

    def _check(self, name: str, found: str, expected: str) -> None:
        if found != expected:
            raise self.fault(name, f"has SHA-256 {found}, its manifest says {expected}")

    def check_sizes(self, recorded: Mapping[str, int]) -> None:
        """Compare the bytes of files with what was recorded; raises ValueError naming the first that differs.

        Costs one listing of each folder and reads no file.
        """
        found: dict[str, int] = {}
        for parent in sorted({name.rpartition("/")[0] for name in recorded}):
            found.update(self.sizes(parent))
        for name, size in recorded.items():
            if name not in found:
                raise self.fault(name, self.kind.missing.format(bytes=size))
            if found[name] != size:
                raise self.fault(name, f"has {found[name]} bytes, its manifest says {size}")


class SealedTable:
    """A finished table, opened for reading; rows are numbered from 0 in the order of the shards."""

    KIND: ClassVar[Kind]

    def __init__(
        self, folder: SealedFolder, manifest: Any, *, manifest_sha256: str, identity: str | None = None
    ) -> None:
        self.uri = folder.uri
        self.hash = manifest_sha256
        """SHA-256 of the manifest, which covers every other file."""
        self.identity = identity
        """Hash of all that the files depend on, None where it is not known."""
        self._folder = folder
        self._shards = manifest.shards
        self.shard_offsets: Places = np.cumsum([0, *(shard.rows for shard in manifest.shards)], dtype=np.int64)
        """First row of each shard, and the number of rows at the end."""

    @classmethod
    def open(cls, uri: str) -> Self:
        """Read a table's manifest and compare the sizes of its files with it.

        Raises ValueError when ``uri`` holds no finished table of this version, or a file is missing or truncated.
        """
        kind = cls.KIND
        folder, said = SealedFolder(uri, kind), f"{kind.name} {uri!r}"
        if not folder.exists(MANIFEST):
            raise UserError(f"{said} {kind.has} no {MANIFEST}; give the folder of a finished {kind.stage} stage")
        content = folder.read_bytes(MANIFEST)
        try:
            version = kind.versioned.model_validate_json(content).version
            if version != kind.version:
                reads = f"this program reads {kind.version}; {kind.again}"
                raise UserError(f"{said} {kind.has} format version {version}, {reads}")
            manifest = kind.manifest.model_validate_json(content)
        except ValidationError as error:
            found = error.errors()[0]
            place = ".".join(map(str, found["loc"])) or MANIFEST
            raise UserError(f"{said}: {place}: {found['msg']}; {kind.again}") from None
        table = cls(folder, manifest, manifest_sha256=hashlib.sha256(content).hexdigest())
        folder.check_sizes({name: info.bytes for name, info in table.files()})
        return table

    def __len__(self) -> int:
        return int(self.shard_offsets[-1])

    def files(self) -> Iterator[tuple[str, FileInfo | Shard]]:
        """Files that are read when rows are, by their names, those of the rows last."""
        yield from self._other_files.items()
        for shard in self._shards:
            yield shard.file, shard

    @property
    def _other_files(self) -> Mapping[str, FileInfo]:
        """Those that hold no rows."""
        raise NotImplementedError

    @property
    def num_bytes(self) -> int:
        """Size of the files that are read when rows are."""
        return sum(info.bytes for _, info in self.files())

    def verify(self) -> None:
        """Read every file and compare its SHA-256 with the manifest's; raises ValueError for the first that differs."""
        for name, info in self.files():
            self._folder.check_content(name, info.sha256)

    def groups_of(
        self, rows: Sequence[int] | NDArray[np.integer], *, group_rows: int = ROW_GROUP_ROWS
    ) -> Iterator[tuple[int, int, Places, Places]]:
        """For each row group that holds some of the rows: its shard and number, their places in ``rows`` and in it."""
        indices = np.asarray(rows, dtype=np.int64)
        shards = np.searchsorted(self.shard_offsets, indices, side="right") - 1
        groups, within = np.divmod(indices - self.shard_offsets[shards], group_rows)
        order = np.lexsort((groups, shards))
        changes = np.flatnonzero((np.diff(shards[order]) != 0) | (np.diff(groups[order]) != 0)) + 1
        for places in np.split(order, changes) if len(order) else []:
            yield int(shards[places[0]]), int(groups[places[0]]), places, within[places]


class Recent(Generic[Value]):
    """Values that are costly to make, of which those used last are kept: up to a total size, but at least one.

    What the uses that are under way asked for, see ``begin``, is kept beyond that size, up to an eighth of the main
    memory.
    """

    def __init__(self, limit: int, *, size: Callable[[Value], int] = lambda value: 1) -> None:
        self._limit, self._size = limit, size
        self._values: OrderedDict[Hashable, tuple[Value, Use]] = OrderedDict()
        self._total = 0
        self._use = self._oldest = NO_USE

    def __len__(self) -> int:
        return len(self._values)

    def begin(self, use: Use, *, oldest: Use) -> None:
        """What is asked for from now on is for this use; those from ``oldest`` on are under way."""
        self._use, self._oldest = use, oldest
        self._shrink()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of a key, made where it is not kept."""
        is_new = key not in self._values
        value, use = (make(), NO_USE) if is_new else self._values[key]
        self._values[key] = value, max(use, self._use)
        self._values.move_to_end(key)
        if is_new:
            self._total += self._size(value)
            self._shrink()
        return value

    def get_all(self, keys: Sequence[Hashable], make: Callable[[list[Any]], Iterable[Value]]) -> list[Value]:
        """The values of different keys; those that are not kept are made in one go, from their keys."""
        missing = [key for key in keys if key not in self._values]
        found = {key: self._values[key][0] for key in keys if key in self._values}
        found |= zip(missing, make(missing), strict=True)
        return [self.get(key, partial(found.__getitem__, key)) for key in keys]

    def _shrink(self) -> None:
        while self._total > self._limit and len(self._values) > 1:
            is_over = self._oldest == NO_USE or self._total > _most_kept()
            oldest = next(iter(self._values))
            spare = next((key for key, (_, use) in self._values.items() if use < self._oldest), None)
            if spare is None and not is_over:
                return
            self._total -= self._size(self._values.pop(oldest if spare is None else spare)[0])


@cache
def _most_kept() -> int:
    return memory_bytes() // 8
