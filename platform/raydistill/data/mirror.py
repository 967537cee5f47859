"""Files of an object store on this machine: fetched where they are not here, sent where they are not there.

A local path that ``store_paths.remote_uri`` knows stands for a place of an object store. All functions do nothing for
other paths. A file here and one there count as the same when size and second of change are equal: what is sent or
fetched gets the time that the store says.
"""

import hashlib
import os
import shutil
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from pyarrow import fs as arrow_fs

from raydistill.data.object_store import filesystem, place
from raydistill.locks import locked
from raydistill.store_paths import here, mirror_root, remote_uri

_SECOND_NS = 10**9


def publish(path: Path, *, leave_out: Collection[str] = ()) -> int:
    """Send a file, or all files of a folder that the store does not have as they are here; returns how many.

    Files and folders whose names begin with a dot, or are in ``leave_out``, stay here.
    """
    uri = remote_uri(path)
    if uri is None:
        return 0
    files = [path] if path.is_file() else sorted(_files_below(path, {*leave_out}))
    known = _listed(uri)
    sent = 0
    for file in files:
        name = file.relative_to(path).as_posix() if file != path else ""
        if name not in known or not _is_same(file, known[name]):
            send(file, path / name)
            sent += 1
    return sent


def send(file: Path, target: Path) -> None:
    """Put a file at the place of the store that the local path ``target`` stands for."""
    uri = remote_uri(target)
    assert uri is not None
    store = filesystem(uri)
    # Not a stream of Python's, which on an error would leave a part as if it were the whole.
    arrow_fs.copy_files(
        str(file), place(uri), source_filesystem=arrow_fs.LocalFileSystem(), destination_filesystem=store
    )
    _take_time(file, store.get_file_info(place(uri)))


def fetch(path: str | os.PathLike[str]) -> Path:
    """The path on this machine, after what the store has there, a file or a folder with all below it, was fetched.

    Several processes may ask at once; each file appears in one rename. What the store does not have stays as it is.
    """
    uri = remote_uri(path)
    target = here(path)
    if uri is None:
        return target
    with locked(_lock_of(target)):
        for name, info in _listed(uri).items():
            file = target / name
            if not file.is_file() or not _is_same(file, info):
                _download(uri, info, file)
    return target


def contents(path: Path) -> list[str]:
    """Name, size and second of change of each file that the store has below a path; nothing is fetched."""
    uri = remote_uri(path)
    assert uri is not None
    return [f"{name} {info.size} {_time_of(info)}" for name, info in sorted(_listed(uri).items())]


def remove(path: Path) -> None:
    """Delete a folder here and, where its path stands for one, in the store."""
    if here(path).exists():
        shutil.rmtree(here(path))
    uri = remote_uri(path)
    if uri is not None and _listed(uri):
        filesystem(uri).delete_dir(place(uri))


def subfolders(path: Path) -> list[Path]:
    """The folders directly below one, here or in the store, sorted."""
    found = {each for each in here(path).iterdir() if each.is_dir()} if here(path).is_dir() else set()
    uri = remote_uri(path)
    if uri is not None:
        selector = arrow_fs.FileSelector(place(uri), allow_not_found=True)
        infos = filesystem(uri).get_file_info(selector)
        found |= {here(path) / info.base_name for info in infos if info.type == arrow_fs.FileType.Directory}
    return sorted(found)


def _files_below(folder: Path, leave_out: set[str]) -> Iterator[Path]:
    for each in folder.iterdir():
        if each.name.startswith(".") or each.name in leave_out:
            continue
        if each.is_dir():
            yield from _files_below(each, leave_out)
        else:
            yield each


def _listed(uri: str) -> dict[str, Any]:
    """Files at a URI by their path below it, an empty one for a file itself."""
    store, root = filesystem(uri), place(uri)
    info = store.get_file_info(root)
    if info.type == arrow_fs.FileType.File:
        return {"": info}
    infos = store.get_file_info(arrow_fs.FileSelector(root, allow_not_found=True, recursive=True))
    return {one.path[len(root) + 1 :]: one for one in infos if one.type == arrow_fs.FileType.File}


def _is_same(file: Path, info: Any) -> bool:
    found = file.stat()
    return found.st_size == info.size and found.st_mtime_ns == _time_of(info)


def _time_of(info: Any) -> int:
    """Whole seconds: a listing tells more of a file's time than a question about it."""
    return int(info.mtime_ns) // _SECOND_NS * _SECOND_NS


def _take_time(file: Path, info: Any) -> None:
    os.utime(file, ns=(_time_of(info), _time_of(info)))


def _download(uri: str, info: Any, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        arrow_fs.copy_files(
            info.path,
            str(temporary),
            source_filesystem=filesystem(uri),
            destination_filesystem=arrow_fs.LocalFileSystem(),
        )
        _take_time(temporary, info)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _lock_of(target: Path) -> Path:
    """The file whose lock keeps other processes of this machine from fetching the same."""
    return mirror_root() / ".locks" / hashlib.sha256(str(target).encode()).hexdigest()[:16]
