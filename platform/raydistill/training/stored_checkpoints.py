"""Checkpoints of a training in an object store: each worker sends its files, then the manifest makes them one.

A worker keeps no copy; one that restores fetches it.
"""

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from raydistill.data import mirror
from raydistill.data.storage import Folder
from raydistill.store_paths import here, shown
from raydistill.training import checkpoint_folder
from raydistill.training.checkpoint_folder import MANIFEST, REGISTER, step_of
from raydistill.user_error import UserError


def checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints of a run in the store, oldest first."""
    return [each for each in _all(folder) if Folder(each).exists(MANIFEST)]


def prepare(folder: Path) -> None:
    """Make a run's folder in the store ready for a start: what was not finished goes, as does Ray Train's own list.

    Raises ValueError when the latest checkpoint lacks a file or one has another size, naming the one before.
    """
    for each in _all(folder):
        if not Folder(each).exists(MANIFEST):
            mirror.remove(each)
    run = Folder(folder)
    if run.exists(REGISTER):
        run.fs.delete_file(run.full_path(REGISTER))
    found = checkpoints(folder)
    wrong = fault(found[-1]) if found else None
    if wrong is not None:
        earlier = next((each for each in reversed(found[:-1]) if fault(each) is None), None)
        remedy = "to start again" if earlier is None else f"to continue from step {step_of(earlier)}"
        raise UserError(f"checkpoint {shown(found[-1])}: {wrong}; remove it {remedy}")


def fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint in the store, as far as sizes tell; its contents the store itself guards."""
    folder = Folder(checkpoint)
    sizes = folder.sizes()
    try:
        listed = {name: int(one["size"]) for name, one in json.loads(folder.read_bytes(MANIFEST))["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is damaged"
    for name, size in listed.items():
        if name not in sizes:
            return f"{name} is missing"
        if sizes[name] != size:
            return f"{name} has size {sizes[name]} where {MANIFEST} says {size}"
    return None


def start(target: Path) -> Path:
    """An empty folder of this process for what becomes ``target``."""
    folder = here(target.parent)
    folder.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=folder, prefix="."))


def send(folder: Path, names: Iterable[str], target: Path) -> None:
    """Send files that this process wrote, and forget them here."""
    for name in names:
        mirror.send(folder / name, target / name)
    shutil.rmtree(folder)


def seal(target: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the manifest, the last file of a checkpoint."""
    Folder(target).write_bytes(MANIFEST, json.dumps({"files": files}).encode())


def probe(folder: Path) -> None:
    """Raise OSError where a run could not keep anything."""
    Folder(folder).write_bytes(".probe", bytes(4096))


def _all(folder: Path) -> list[Path]:
    return [each for each in mirror.subfolders(folder) if checkpoint_folder.is_checkpoint(each)]
