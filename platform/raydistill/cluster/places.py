"""Folders of this machine beside a job's storage without which a Ray of its own cannot start."""

import errno
import os
import shutil
import tempfile
from pathlib import Path

_LONGEST_SOCKET = 107
"""Bytes of a Unix socket's name, on Linux."""
_SOCKET = "ray/session_2026-01-01_00-00-00_000000_{pid}/sockets/plasma_store"
_LEAST_FREE_BYTES = 256 * 2**20
_PROBE_BYTES = 2**16
_REMEDY = "set RAY_TMPDIR to a short path of a folder that you may write to"


def machine_problems() -> list[str]:
    """Why a Ray of this machine would not start, a line with the remedy each; none where a cluster is joined."""
    if os.environ.get("RAY_ADDRESS"):
        return []
    # As Ray itself finds it.
    found = next((os.environ[name] for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), "/tmp")
    problem = _temporary_problem(Path(found or ".").absolute()) or _home_problem()
    return [problem] if problem else []


def _temporary_problem(folder: Path) -> str | None:
    name = f"the folder for temporary files, {folder},"
    over = len(os.fsencode(folder / _SOCKET.format(pid=os.getpid()))) - _LONGEST_SOCKET
    if over > 0:
        return f"{name} is {over} bytes too long for the names of Ray's sockets; {_REMEDY}"
    place = _nearest(folder / "ray")
    try:
        _write(place)
        free = shutil.disk_usage(place).free
    except OSError as error:
        why = os.strerror(error.errno or 0)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"{name} is full ({why}); make room, or {_REMEDY}"
        return f"{name} cannot be used: {place} {_whose(place)} cannot be written ({why}); {_REMEDY}"
    if free < _LEAST_FREE_BYTES:
        least = _LEAST_FREE_BYTES / 2**20
        return f"{name} has {free / 2**20:.0f} MiB free, and Ray needs {least:.0f}; make room, or {_REMEDY}"
    try:
        tempfile.gettempdir()
    except OSError as error:
        return f"{error.strerror or error}; set TMPDIR to a folder that you may write to"
    return None


def _home_problem() -> str | None:
    """Libraries keep files below the home folder, each with an error of its own where they cannot."""
    home = Path.home()
    try:
        _write(home)
    except OSError as error:
        return (
            f"the home folder {home} cannot be written ({os.strerror(error.errno or 0)}), where libraries keep files; "
            "set HOME to a folder that you may write to"
        )
    return None


def _write(folder: Path) -> None:
    # Without a name, so that nothing is left.
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(_PROBE_BYTES))


def _nearest(path: Path) -> Path:
    """The path itself or the closest above it that exists."""
    return next(each for each in [path, *path.parents] if each.exists() or each.is_symlink())


def _whose(path: Path) -> str:
    try:
        owner = path.owner()
    except (KeyError, OSError):
        owner = "nobody known"
    return f"(of {owner})"
