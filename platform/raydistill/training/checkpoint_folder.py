"""Checkpoint folders on disk: finished in one rename, described by a manifest, refused by name when damaged."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from raydistill.user_error import UserError

MANIFEST = "manifest.json"

_PREFIX = "checkpoint_"
_PARTIAL = ".partial"
_REPLACED = ".replaced"
REGISTER = "checkpoint_manager_snapshot.json"
"""Ray Train's own list of a run's checkpoints, beside them."""


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of an optimizer step lies."""
    return folder / f"{_PREFIX}{step:09d}"


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which a checkpoint was written."""
    return int(checkpoint.name.removeprefix(_PREFIX))


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a run's folder, oldest first, whole or damaged."""
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if path.is_dir() and is_checkpoint(path))


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is named as a checkpoint is."""
    return path.name.startswith(_PREFIX) and path.name[len(_PREFIX) :].isdigit()


def partial_path(target: Path) -> Path:
    """Beside ``target``, the name under which it is written."""
    return target.with_name(f".{target.name}{_PARTIAL}")


def start_partial(target: Path) -> Path:
    """An empty folder in which to write what becomes ``target``."""
    partial = partial_path(target)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    return partial


def remove_partial(target: Path) -> None:
    """Give up what was written so far of ``target``."""
    shutil.rmtree(partial_path(target), ignore_errors=True)


def finish(target: Path) -> None:
    """Rename what was written into ``target``; at no moment is there half of an old or a new one."""
    replaced = target.with_name(f".{target.name}{_REPLACED}")
    if target.exists():
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


def forget_register(folder: Path) -> None:
    """Delete Ray Train's list of checkpoints, which may lag behind the folder, or be cut off in its middle."""
    (folder / REGISTER).unlink(missing_ok=True)


def describe(folder: Path, files: Iterable[str]) -> dict[str, dict[str, int | str]]:
    """Size and SHA-256 of files, which are on the disk when it returns."""
    found: dict[str, dict[str, int | str]] = {}
    for name in files:
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
            found[name] = {
                "size": os.fstat(file.fileno()).st_size,
                "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
            }
    return found


def seal(folder: Path, files: dict[str, dict[str, int | str]]) -> None:
    """Write the manifest, the last file of a checkpoint."""
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump({"files": files}, file)
        file.flush()
        os.fsync(file.fileno())


def fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, None when every file is as its manifest says."""
    try:
        listed = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["files"]
        files = [(name, {what: expected[what] for what in ("size", "sha256")}) for name, expected in listed.items()]
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is damaged"
    for name, expected in files:
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
        found = describe(checkpoint, [name])[name]
        for what, value in expected.items():
            if found[what] != value:
                return f"{name} has {what} {found[what]} where {MANIFEST} says {value}"
    return None


def check_latest(folder: Path) -> None:
    """Raise ValueError when the latest checkpoint of a run is damaged, offering the one before."""
    found = checkpoints(folder)
    if not found:
        return
    latest = found.pop()
    wrong = fault(latest)
    if wrong is None:
        return
    earlier = next((path for path in reversed(found) if fault(path) is None), None)
    if earlier is None:
        offer = f"there is no earlier one: remove {latest} to start again"
    else:
        newer = [str(path) for path in (*found, latest) if path.name > earlier.name]
        offer = f"remove {' and '.join(newer)} to continue from {earlier.name} (step {step_of(earlier)})"
    raise UserError(f"checkpoint {latest}: {wrong}; {offer}")
