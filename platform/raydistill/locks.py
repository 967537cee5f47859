"""Locks of files, by which processes take turns; the system gives up those of a process that ends, however it ends.

A lock holds on one machine, and among several where their shared file system has locks. An object store has none: there
the lock lies in the machine's own copy and binds its processes alone.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

_POLL_S = 0.2


class HeldError(TimeoutError):
    """Somebody else holds a lock."""

    def __init__(self, path: Path) -> None:
        self.holder = _holder(path)
        """Who it is, such as ``process 12 on host gpu-1``."""
        super().__init__(f"{path} is locked by {self.holder}")


class Lock:
    """A lock that is held until it is released, from whichever thread."""

    def __init__(self, path: Path, held: FileLock) -> None:
        self._path = path
        self._held = held

    def release(self) -> None:
        """Let another process have it; a second call does nothing."""
        if self._held.is_locked:
            with suppress(OSError):
                _note(self._path).unlink()
            self._held.release()


def hold(path: Path, *, timeout_s: float | None = 0.0, waiting: Callable[[], None] | None = None) -> Lock:
    """Take the lock of the file ``path``, which is made where it is missing and never removed.

    Waits ``timeout_s`` seconds for it, for ever if that is None; ``waiting`` is called once if there is a wait.
    Raises HeldError when it is not had in time, and OSError where no file can be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not of a thread: a spool may be closed by another one than has opened it.
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if timeout_s == 0:
            raise HeldError(path) from None
        if waiting is not None:
            waiting()
        try:
            lock.acquire(timeout=-1 if timeout_s is None else timeout_s, poll_interval=_POLL_S)
        except Timeout:
            raise HeldError(path) from None
    # A full disk takes no note: the lock holds all the same, and who is refused is told less.
    with suppress(OSError):
        _note(path).write_text(_oneself(), encoding="utf-8")
    return Lock(path, lock)


@contextmanager
def locked(path: Path, *, timeout_s: float | None = None, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Inside, no other process and no other thread has the lock; waits for ever by default, see ``hold``."""
    lock = hold(path, timeout_s=timeout_s, waiting=waiting)
    try:
        yield
    finally:
        lock.release()


def _oneself() -> str:
    return f"process {os.getpid()} on host {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S %z')}"


def _note(path: Path) -> Path:
    """A file of its own: the lock's is emptied by whoever tries it."""
    return path.with_name(f"{path.name}-holder")


def _holder(path: Path) -> str:
    try:
        return _note(path).read_text(encoding="utf-8") or "another process"
    except OSError:
        return "another process"
