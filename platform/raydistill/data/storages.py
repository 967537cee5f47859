"""Where a job's files lie: on a file system that all its machines share, or in an object store with copies here.

A local path that ``store_paths.remote_uri`` knows stands for a place of an object store. Who has a path asks
``storage_at`` and need not know which of the two it is.
"""

import hashlib
import math
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from pyarrow import fs as arrow_fs

from raydistill.atomic import atomic_file, first_folder
from raydistill.data.object_store import filesystem, place
from raydistill.locks import locked
from raydistill.store_paths import SCHEME, files_below, is_in_store, local_path, mirror_root, remote_uri

_SECOND_NS = 10**9


class Storage:
    """A file or folder on a file system that all machines of a job share."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self.address = str(path)
        """Its path in ``filesystem``."""

    @property
    def filesystem(self) -> Any | None:
        """What Arrow and Ray open it with, None for this machine's own."""
        return None

    def publish(self, *, leave_out: Collection[str] = ()) -> int:
        """Let other machines see it: a file, or all files of a folder that they do not see as they are here.

        Files and folders whose names begin with a dot, or are in ``leave_out``, stay here. Returns how many were sent.
        """
        return 0

    def fetch(self) -> Path:
        """Its path on this machine, with all that other machines see there; what they do not see stays as it is."""
        return self._path

    def release(self) -> None:
        """Delete what was fetched here and lies elsewhere too."""

    def remove(self) -> None:
        """Delete a folder, here and elsewhere, if it is there."""
        if self._path.exists():
            shutil.rmtree(self._path)

    def subfolders(self) -> list[Path]:
        """The folders directly below, sorted."""
        return sorted(each for each in self._path.iterdir() if each.is_dir()) if self._path.is_dir() else []

    def contents(self) -> list[str]:
        """What tells each file below from another: its name, size and time of change. Nothing is fetched."""
        return [f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files_below(self._path)]

    def free_bytes(self) -> float:
        """How much can still be written below."""
        return shutil.disk_usage(self._path).free

    def share(self, folder: Path, name: Callable[[], str]) -> Path:
        """Where other machines find a folder of this one: itself, or a copy below that is made once and is ``name``."""
        return folder


class ObjectStorage(Storage):
    """A place of an object store, and its path on this machine: files are sent and fetched where they differ.

    A file here and one there count as the same when size and second of change are equal: what is sent or fetched gets
    the time that the store says.
    """

    def __init__(self, uri: str) -> None:
        super().__init__(local_path(uri))
        self._uri = uri
        self.address = place(uri)

    @property
    def filesystem(self) -> Any:
        """That of the bucket."""
        return filesystem(self._uri)

    def publish(self, *, leave_out: Collection[str] = ()) -> int:
        """See ``Storage``."""
        files = [self._path] if self._path.is_file() else sorted(_files_below(self._path, {*leave_out}))
        known = self._listed()
        sent = 0
        for file in files:
            name = file.relative_to(self._path).as_posix() if file != self._path else ""
            if name not in known or not _is_same(file, known[name]):
                ObjectStorage(f"{self._uri}/{name}".rstrip("/")).take(file)
                sent += 1
        return sent

    def take(self, file: Path) -> None:
        """Put a file of this machine at this place."""
        # Not a stream of Python's, which on an error would leave a part as if it were the whole.
        arrow_fs.copy_files(
            str(file),
            self.address,
            source_filesystem=arrow_fs.LocalFileSystem(),
            destination_filesystem=self.filesystem,
        )
        _take_time(file, self.filesystem.get_file_info(self.address))

    def fetch(self) -> Path:
        """See ``Storage``; several processes may ask at once, and each file appears in one rename."""
        with locked(_lock_of(self._path)):
            for name, info in self._listed().items():
                file = self._path / name
                if not file.is_file() or not _is_same(file, info):
                    self._download(info, file)
        return self._path

    def release(self) -> None:
        """Delete the copy here."""
        shutil.rmtree(self._path, ignore_errors=True)

    def remove(self) -> None:
        """Delete the folder here and in the store."""
        super().remove()
        if self._listed():
            self.filesystem.delete_dir(self.address)

    def subfolders(self) -> list[Path]:
        """Those that are here or in the store."""
        infos = self.filesystem.get_file_info(arrow_fs.FileSelector(self.address, allow_not_found=True))
        found = {self._path / info.base_name for info in infos if info.type == arrow_fs.FileType.Directory}
        return sorted({*found, *super().subfolders()})

    def contents(self) -> list[str]:
        """See ``Storage``, of what the store has."""
        return [f"{name} {info.size} {_time_of(info)}" for name, info in sorted(self._listed().items())]

    def free_bytes(self) -> float:
        """Nobody knows a limit."""
        return math.inf

    def share(self, folder: Path, name: Callable[[], str]) -> Path:
        """The folder itself where it is in a store, else a copy below this place."""
        if is_in_store(folder):
            return folder
        target = self._path / name()
        if not target.is_dir():
            with first_folder(target) as made:
                shutil.copytree(folder, made, dirs_exist_ok=True)
        storage_at(target).publish()
        return target

    def _listed(self) -> dict[str, Any]:
        """Files at the place by their path below it, an empty one for a file itself."""
        info = self.filesystem.get_file_info(self.address)
        if info.type == arrow_fs.FileType.File:
            return {"": info}
        infos = self.filesystem.get_file_info(arrow_fs.FileSelector(self.address, allow_not_found=True, recursive=True))
        return {one.path[len(self.address) + 1 :]: one for one in infos if one.type == arrow_fs.FileType.File}

    def _download(self, info: Any, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(file) as temporary:
            arrow_fs.copy_files(
                info.path,
                str(temporary),
                source_filesystem=self.filesystem,
                destination_filesystem=arrow_fs.LocalFileSystem(),
            )
            _take_time(temporary, info)


def storage_at(path: str | os.PathLike[str]) -> Storage:
    """The place that a path stands for, wherever the cache folder of its machine is."""
    uri = remote_uri(path)
    return Storage(path) if uri is None else ObjectStorage(uri)


def path_of(address: str, of: Any) -> Path:
    """The path that stands for an address in a file system of Arrow's."""
    return local_path(SCHEME + address) if isinstance(of, arrow_fs.S3FileSystem) else Path(address)


def _files_below(folder: Path, leave_out: set[str]) -> Iterator[Path]:
    for each in folder.iterdir():
        if each.name.startswith(".") or each.name in leave_out:
            continue
        if each.is_dir():
            yield from _files_below(each, leave_out)
        else:
            yield each


def _is_same(file: Path, info: Any) -> bool:
    found = file.stat()
    return found.st_size == info.size and found.st_mtime_ns == _time_of(info)


def _time_of(info: Any) -> int:
    """Whole seconds: a listing tells more of a file's time than a question about it."""
    return int(info.mtime_ns) // _SECOND_NS * _SECOND_NS


def _take_time(file: Path, info: Any) -> None:
    os.utime(file, ns=(_time_of(info), _time_of(info)))


def _lock_of(target: Path) -> Path:
    """The file whose lock keeps other processes of this machine from fetching the same."""
    return mirror_root() / ".locks" / hashlib.sha256(str(target).encode()).hexdigest()[:16]
