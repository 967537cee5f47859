"""Distributions of a package index read as archives: fetched by hash, never installed, imported or executed."""

import hashlib
import os
import re
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from raydistill.config.sections import PackageRef
from raydistill.data.package_index import download
from raydistill.data.storage import glob_regex

NESTED = "!/"
_SHOWN_MEMBERS = 5
_IN_MEMORY = 64_000_000


def cache_folder() -> Path:
    """Where fetched files are kept: ``$RAYDISTILL_CACHE``, or ``~/.cache/raydistill``."""
    return Path(os.environ.get("RAYDISTILL_CACHE") or Path.home() / ".cache" / "raydistill")


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
    outer, _, inner = pattern.partition(NESTED)
    with _opened(archive) as container:
        names = [name for name in container.names() if _matches(name, outer)]
        if not names:
            raise ValueError(_no_match(archive.name, outer, container.names()))
        if inner:
            names = [name for outer_name in names for name in _nested_members(container, outer_name, inner)]
            if not names:
                raise ValueError(f"members is {pattern!r}, but no nested file matches {inner!r}; correct it")
    excluded = list(exclude)
    kept = [name for name in names if not any(_matches(name, glob) for glob in excluded)]
    if not kept:
        raise ValueError(f"members is {pattern!r}, but exclude {excluded} leaves no file of it; exclude less")
    return sorted(kept)


def _nested_members(container: "_Container", outer_name: str, pattern: str) -> Iterator[str]:
    middle, _, inner = pattern.partition(NESTED)
    with container.open(outer_name) as stream, _nested(stream, outer_name) as nested:
        for name in nested.names():
            if _matches(name, middle):
                found = _nested_members(nested, name, inner) if inner else iter([name])
                yield from (f"{outer_name}{NESTED}{each}" for each in found)


@contextmanager
def open_member(archive: Path, member: str) -> Iterator[IO[bytes]]:
    """A binary stream of one member, named as ``list_members`` names it."""
    with _opened(archive) as container, _descend(container, member) as stream:
        yield stream


@contextmanager
def _descend(container: "_Container", member: str) -> Iterator[IO[bytes]]:
    name, _, rest = member.partition(NESTED)
    with container.open(name) as stream:
        if not rest:
            yield stream
            return
        with _nested(stream, name) as nested, _descend(nested, rest) as inner:
            yield inner


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
    except ValueError:
        members = list_members(archive, path)
    destination.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=destination.parent, prefix=f".{destination.name}-"))
    try:
        for member in members:
            target = temporary / _below(member.rpartition(NESTED)[2], inner)
            target.parent.mkdir(parents=True, exist_ok=True)
            with open_member(archive, member) as stream, target.open("wb") as file:
                shutil.copyfileobj(stream, file)
        temporary.chmod(0o755)
        _rename(temporary, destination)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return destination


def _rename(temporary: Path, destination: Path) -> None:
    try:
        temporary.rename(destination)
    except OSError:
        # Another process extracted the same content first.
        if not destination.exists():
            raise


def _below(name: str, folder: str) -> PurePosixPath:
    """The part of a member's name below ``folder``, which may stand after a top folder; a file gives its own name."""
    parts, head = PurePosixPath(name).parts, PurePosixPath(folder).parts
    start = 0 if parts[: len(head)] == head else 1
    return PurePosixPath(*(parts[start + len(head) :] or parts[-1:]))


class _Container:
    """Regular files of a zip or tar archive; links and devices are not members."""

    def __init__(self, file: zipfile.ZipFile | tarfile.TarFile, name: str) -> None:
        self._file = file
        if isinstance(file, zipfile.ZipFile):
            every = file.namelist()
            self._names = [entry.filename for entry in file.infolist() if not entry.is_dir()]
        else:
            every = file.getnames()
            self._names = [entry.name for entry in file.getmembers() if entry.isfile()]
        for member in every:
            if member.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", member) or re.match(r"[A-Za-z]:", member):
                raise ValueError(f"archive {name!r} holds the unsafe member {member!r}; it is not read")

    def names(self) -> list[str]:
        return self._names

    def open(self, name: str) -> IO[bytes]:
        if name not in self._names:
            raise ValueError(f"the archive has no member {name!r}; it has {_some(self._names)}")
        if isinstance(self._file, zipfile.ZipFile):
            return self._file.open(name)
        return cast(IO[bytes], self._file.extractfile(name))


@contextmanager
def _opened(archive: Path) -> Iterator[_Container]:
    with archive.open("rb") as file, _container(file, archive.name) as container:
        yield container


@contextmanager
def _nested(stream: IO[bytes], name: str) -> Iterator[_Container]:
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as copy:
        shutil.copyfileobj(stream, copy)
        copy.seek(0)
        with _container(copy, name) as container:
            yield container


@contextmanager
def _container(file: Any, name: str) -> Iterator[_Container]:
    if zipfile.is_zipfile(file):
        file.seek(0)
        with zipfile.ZipFile(file) as zipped:
            yield _Container(zipped, name)
        return
    file.seek(0)
    try:
        opened = tarfile.open(fileobj=file, mode="r:*")  # noqa: SIM115 (closed below, outside the handler)
    except tarfile.TarError:
        raise ValueError(f"{name!r} is no zip, wheel or tar archive") from None
    with opened:
        yield _Container(opened, name)


def _matches(name: str, pattern: str) -> bool:
    regex = glob_regex(pattern)
    return bool(regex.fullmatch(name) or regex.fullmatch(name.partition("/")[2]))


def _no_match(archive: str, pattern: str, names: list[str]) -> str:
    return f"{pattern!r} matches no member of {archive}; it has {_some(names)}"


def _some(names: list[str]) -> str:
    shown = ", ".join(sorted(names)[:_SHOWN_MEMBERS])
    more = len(names) - _SHOWN_MEMBERS
    return shown + (f" and {more} more" if more > 0 else "")
