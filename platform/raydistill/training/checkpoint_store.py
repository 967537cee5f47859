"""Checkpoints of a training where they lie: finished in one step, described by a manifest, refused by name if damaged.

On a file system they are written beside their place and renamed. To an object store each worker sends its files, then
the manifest makes them a checkpoint; a worker keeps no copy, and one that restores fetches it.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar

from raydistill import atomic
from raydistill.data.storage import Folder
from raydistill.data.storages import ObjectStorage, storage_at
from raydistill.store_paths import is_in_store, remote_uri, shown
from raydistill.user_error import UserError

MANIFEST = "manifest.json"
REGISTER = "checkpoint_manager_snapshot.json"
"""Ray Train's own list of a run's checkpoints, beside them."""
_PREFIX = "checkpoint_"

Files = dict[str, dict[str, int | str]]
"""By the name of a file its ``size`` and ``sha256``."""


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of an optimizer step lies."""
    return folder / f"{_PREFIX}{step:09d}"


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which a checkpoint was written."""
    return int(checkpoint.name.removeprefix(_PREFIX))


def _is_checkpoint(path: Path) -> bool:
    return path.name.startswith(_PREFIX) and path.name[len(_PREFIX) :].isdigit()


class Checkpoints:
    """The checkpoints of one training, in a folder that has nothing else, on a file system that all workers share."""

    COMPARED: ClassVar[tuple[str, ...]] = ("size", "sha256")
    """What a start compares of each file with its manifest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def finished(self) -> list[Path]:
        """The finished ones, oldest first, whole or damaged."""
        return [each for each in self._all() if self._is_finished(each)]

    def prepare(self) -> None:
        """Make ready for a start: what was not finished goes, as does Ray Train's own list, which may lag behind.

        Raises ValueError when the latest one is damaged, offering the one before.
        """
        self.tidy()
        for each in self._all():
            if not self._is_finished(each):
                storage_at(each).remove()
        self._check_latest()
        run = Folder(self.folder)
        if run.exists(REGISTER):
            run.fs.delete_file(run.full_path(REGISTER))

    def tidy(self) -> None:
        """Delete here what an interrupted writer left in the folder and beside it, and put back what it was replacing.

        Raises OSError where the storage has vanished.
        """
        for folder in (self.folder, self.folder.parent):
            atomic.tidy(folder)

    def fault(self, checkpoint: Path) -> str | None:
        """What is wrong with a checkpoint, None when every file is as its manifest says."""
        try:
            listed = json.loads(Folder(checkpoint).read_bytes(MANIFEST))["files"]
            files = [(name, {what: expected[what] for what in self.COMPARED}) for name, expected in listed.items()]
        except FileNotFoundError:
            return f"{MANIFEST} is missing"
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"{MANIFEST} is damaged"
        for name, expected in files:
            found = self._found(checkpoint, name)
            if found is None:
                return f"{name} is missing"
            for what, value in expected.items():
                if found[what] != value:
                    return f"{name} has {what} {found[what]} where {MANIFEST} says {value}"
        return None

    def _check_latest(self) -> None:
        found = self.finished()
        wrong = self.fault(found[-1]) if found else None
        if wrong is None:
            return
        latest = shown(found.pop())
        earlier = next((path for path in reversed(found) if self.fault(path) is None), None)
        if earlier is None:
            offer = f"there is no earlier one: remove {latest} to start again"
        else:
            newer = [*(shown(path) for path in found if path.name > earlier.name), latest]
            offer = f"remove {' and '.join(newer)} to continue from {earlier.name} (step {step_of(earlier)})"
        raise UserError(f"checkpoint {latest}: {wrong}; {offer}")

    def _all(self) -> list[Path]:
        return [each for each in storage_at(self.folder).subfolders() if _is_checkpoint(each)]

    def probe(self) -> None:
        """Raise OSError where a run could not keep anything."""
        file = self.folder / ".probe"
        file.write_bytes(bytes(4096))
        file.unlink()

    def begin(self, target: Path) -> None:
        """One rank: make room for a new checkpoint."""
        atomic.start(target)

    def folder_for(self, target: Path) -> Path:
        """Every rank: the folder that it writes its files into."""
        return atomic.partial_path(target)

    def take(self, target: Path, folder: Path, names: Iterable[str]) -> Files:
        """Every rank: what its files are, which are kept when it returns."""
        return describe(folder, names)

    def finish(self, target: Path, files: Files) -> None:
        """One rank: make a checkpoint of the files of all ranks."""
        seal(atomic.partial_path(target), files)
        atomic.finish(target)

    def leave(self, folder: Path) -> None:
        """Every rank, whatever happened: it writes no more into its folder."""

    def give_up(self, target: Path) -> None:
        """One rank: remove what all of them wrote of what did not become a checkpoint."""
        atomic.give_up(target)

    def _is_finished(self, checkpoint: Path) -> bool:
        """Whether a folder with the name of a checkpoint is one."""
        return True

    def _found(self, checkpoint: Path, name: str) -> Mapping[str, int | str] | None:
        """What is compared of a file as it is, None where there is none."""
        return describe(checkpoint, [name])[name] if (checkpoint / name).is_file() else None


class StoredCheckpoints(Checkpoints):
    """Checkpoints in an object store, which guards the contents of files itself."""

    COMPARED = ("size",)

    def probe(self) -> None:
        """See the base class."""
        Folder(self.folder).write_bytes(".probe", bytes(4096))

    def begin(self, target: Path) -> None:
        """See the base class."""
        Folder(target).delete()

    def folder_for(self, target: Path) -> Path:
        """One of the rank's own, which need be on no disk that others see."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=self.folder, prefix="."))

    def take(self, target: Path, folder: Path, names: Iterable[str]) -> Files:
        """Send them; see the base class."""
        files = describe(folder, names)
        for name in files:
            ObjectStorage(f"{remote_uri(target)}/{name}").take(folder / name)
        return files

    def leave(self, folder: Path) -> None:
        """Delete it."""
        shutil.rmtree(folder, ignore_errors=True)

    def give_up(self, target: Path) -> None:
        """Without a manifest it is no checkpoint; the next start removes it."""

    def finish(self, target: Path, files: Files) -> None:
        """See the base class."""
        Folder(target).write_bytes(MANIFEST, json.dumps({"files": files}).encode())

    def _is_finished(self, checkpoint: Path) -> bool:
        return Folder(checkpoint).exists(MANIFEST)

    def _found(self, checkpoint: Path, name: str) -> Mapping[str, int | str] | None:
        sizes = Folder(checkpoint).sizes()
        return {"size": sizes[name]} if name in sizes else None


def checkpoints_at(folder: Path) -> Checkpoints:
    """The checkpoints in a folder of this machine, or where that stands for."""
    return StoredCheckpoints(folder) if is_in_store(folder) else Checkpoints(folder)


def describe(folder: Path, files: Iterable[str]) -> Files:
    """Size and SHA-256 of files, which are on the disk when it returns."""
    found: Files = {}
    for name in files:
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
            found[name] = {
                "size": os.fstat(file.fileno()).st_size,
                "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
            }
    return found


def seal(folder: Path, files: Files) -> None:
    """Write the manifest, the last file of a checkpoint."""
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump({"files": files}, file)
        file.flush()
        os.fsync(file.fileno())
