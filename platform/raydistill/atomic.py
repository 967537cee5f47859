"""Files and folders that appear in one step: written beside under another name, then renamed.

A folder that only one process writes has a fixed name while it is written, so that ``tidy`` finds what a kill left.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PARTIAL = ".partial"
_REPLACED = ".replaced"


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """The name under which to write what becomes ``path``; after an error the old file stays, and nothing beside it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any, *, indent: int | None = None) -> None:
    """Replace a file in one step, so that a reader sees the old or the new content."""
    write_text(path, json.dumps(value, indent=indent))


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """An empty folder in which to write what replaces ``target``; after an error the old one stays.

    One process writes a target at a time.
    """
    try:
        yield start(target)
        finish(target)
    finally:
        give_up(target)


@contextmanager
def first_folder(target: Path) -> Iterator[Path]:
    """As ``atomic_folder`` where several processes make the same: the first one's stays."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as temporary:
        made = Path(temporary) / target.name
        made.mkdir()
        yield made
        try:
            made.rename(target)
        except OSError:
            if not target.is_dir():
                raise


def partial_path(target: Path) -> Path:
    """Beside ``target``, the name under which it is written."""
    return target.with_name(f".{target.name}{_PARTIAL}")


def start(target: Path) -> Path:
    """An empty folder in which to write what becomes ``target``."""
    give_up(target)
    partial_path(target).mkdir(parents=True)
    return partial_path(target)


def give_up(target: Path) -> None:
    """Remove what was written so far of ``target``."""
    shutil.rmtree(partial_path(target), ignore_errors=True)


def finish(target: Path) -> None:
    """Rename what was written into ``target``; at no moment is there half of an old or a new one."""
    replaced = target.with_name(f".{target.name}{_REPLACED}")
    if target.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        target.rename(replaced)
    partial_path(target).rename(target)
    shutil.rmtree(replaced, ignore_errors=True)


def tidy(folder: Path) -> None:
    """Delete what an interrupted writer left in a folder, and put back what it was about to replace."""
    for left in folder.glob(f".*{_PARTIAL}"):
        shutil.rmtree(left)
    for left in folder.glob(f".*{_REPLACED}"):
        target = left.with_name(left.name.removeprefix(".").removesuffix(_REPLACED))
        if target.exists():
            shutil.rmtree(left)
        else:
            left.rename(target)
