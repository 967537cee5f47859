"""A full disk, storage that nobody may write to and storage that vanished, recognised in whatever was raised."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from raydistill.data.store_faults import fault_of
from raydistill.store_paths import remote_uri, shown

_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_GONE = {errno.ENOENT, errno.ENOTDIR}
_BROKEN = {errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.EHOSTDOWN}
_FULL_TEXTS = ("No space left on device", "Disk quota exceeded", "database or disk is full")
_AGAIN = "then run the same command again; it continues"


def storage_problem(error: BaseException, folder: Path | None) -> str | None:
    """One line with the remedy if a fault of the storage is what ended a command; None if it was anything else.

    ``folder`` is the job's; its parent is the storage. The fault is looked for in causes, groups, and in what Ray
    brings from its tasks, actors and training workers; libraries that raise errors of their own are known by text.
    """
    found = list(_chain(error))
    for each in found:
        line = _of_system(each, folder) if isinstance(each, OSError) else None
        if line is not None:
            return line
    for each in found:
        why = fault_of(each)
        if why is not None and folder is not None and remote_uri(folder) is not None:
            return f"storage {shown(folder.parent)} fails ({why}): mend that, {_AGAIN}"
    for each in found:
        for text in _FULL_TEXTS:
            if text in str(each):
                return f"{_place(None, folder)} is full ({text}): make room, {_AGAIN}"
    return None


def _of_system(error: OSError, folder: Path | None) -> str | None:
    path = Path(str(error.filename)) if error.filename else None
    place, why = _place(path, folder), os.strerror(error.errno or 0)
    if error.errno == errno.ENAMETOOLONG:
        return f"a name is too long for a file system: {path.name[:60] if path else error}...; shorten it"
    if error.errno in _FULL:
        return f"{place} is full ({why}): make room, {_AGAIN}"
    if folder is None or not (_lies_in(path, folder.parent) or str(folder.parent) in str(error)):
        return None
    if error.errno in _REFUSED:
        return f"{place} cannot be written ({why}): allow it, or set storage to another folder; {_AGAIN}"
    if error.errno in _BROKEN or (error.errno in _GONE and not _is_folder(folder)):
        return f"{place} no longer exists ({why}): restore it, {_AGAIN}"
    return None


def _lies_in(path: Path | None, folder: Path) -> bool:
    return path is not None and path.is_relative_to(folder)


def _place(path: Path | None, folder: Path | None) -> str:
    # Arrow and others name no file; what a job writes lies in its storage.
    if folder is not None and (path is None or _lies_in(path, folder.parent)):
        return f"storage {folder.parent}"
    return "a disk" if path is None else f"the disk of {path.parent}"


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and all that it came from, each once."""
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop(0)
        if not isinstance(each, BaseException) or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        # Ray's: the cause of a task's error, the failures of training workers by rank, that of their controller.
        waiting += [each.__cause__, getattr(each, "cause", None), getattr(each, "controller_failure", None)]
        failures = getattr(each, "worker_failures", None)
        waiting += failures.values() if isinstance(failures, dict) else []
        waiting += each.exceptions if isinstance(each, BaseExceptionGroup) else []
        waiting += [] if each.__suppress_context__ else [each.__context__]
