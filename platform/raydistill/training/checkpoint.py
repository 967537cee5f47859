"""Checkpoints of a training: written through Ray Train, restored by a restarted worker group or job."""

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import ray.train
import torch.distributed as dist
from pyarrow.fs import S3FileSystem
from ray.train import Checkpoint, CheckpointUploadMode

from raydistill.data import mirror, object_store
from raydistill.data.storage import Folder
from raydistill.models.load import load_model, load_tokenizer, save_model
from raydistill.store_paths import SCHEME, local_path, remote_uri, shown
from raydistill.training import checkpoint_folder, stored_checkpoints
from raydistill.training.agreement import StorageError, agree
from raydistill.training.engine import Engine

T = TypeVar("T")

_REMEDY = "make room there, or make it writable, and start again: the run continues from its latest checkpoint"


def report_checkpoint(engine: Engine, metrics: Mapping[str, float], state: Mapping[str, Any]) -> None:
    """Write a checkpoint as ``write_checkpoint`` does and make it Ray Train's latest; all ranks call it."""
    _register(write_checkpoint(engine, _storage(), state), metrics)


def write_checkpoint(engine: Engine, storage: Path, state: Mapping[str, Any]) -> Path:
    """Write a checkpoint of the step in ``state["position"]`` into a run's folder; returns where it lies.

    All ranks call it at the same step; ``state`` is plain data. Raises StorageError on all of them.
    """
    target = checkpoint_folder.checkpoint_path(storage, int(state["position"]["step"]))
    agree_here = partial(agree, subject=shown(storage), remedy=_REMEDY)
    if remote_uri(target) is not None:
        return _write_to_store(engine, target, state, agree_here)
    try:
        agree_here(_at_first(lambda: checkpoint_folder.start_partial(target)))
        folder = checkpoint_folder.partial_path(target)
        files = agree_here(lambda: checkpoint_folder.describe(folder, engine.save(folder, state)))
        every = _of_all_ranks(files)
        agree_here(_at_first(lambda: _finish(target, every)))
    except StorageError:
        _at_first(lambda: checkpoint_folder.remove_partial(target))()
        raise
    return target


def _write_to_store(engine: Engine, target: Path, state: Mapping[str, Any], agree_here: Callable[..., Any]) -> Path:
    """Each rank writes into a folder of its own, which need be on no disk that others see, and sends its files."""
    agree_here(_at_first(lambda: Folder(target).delete()))
    folder = agree_here(lambda: stored_checkpoints.start(target))
    try:
        files = agree_here(lambda: checkpoint_folder.describe(folder, engine.save(folder, state)))
        agree_here(lambda: stored_checkpoints.send(folder, files, target))
        every = _of_all_ranks(files)
        agree_here(_at_first(lambda: stored_checkpoints.seal(target, every)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return target


def _of_all_ranks(files: dict[str, dict[str, int | str]]) -> dict[str, dict[str, int | str]]:
    parts: list[dict[str, dict[str, int | str]]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, files)
    return {name: part[name] for part in parts for name in part}


def restore(engine: Engine) -> dict[str, Any] | None:
    """Restore the latest checkpoint of this run, if there is one; returns the state that was saved with it.

    All ranks call it. What lies in the run's folder counts, and Ray Train is told of what it does not know: a job
    that starts again begins with an empty list, and a crash may have come between writing and registering.
    """
    storage = _storage()
    probe = _probe if remote_uri(storage) is None else stored_checkpoints.probe
    agree(_at_first(lambda: probe(storage)), subject=shown(storage), remedy=_REMEDY)
    registered = ray.train.get_checkpoint()
    known = -1 if registered is None else checkpoint_folder.step_of(Path(registered.path))
    found: list[Any] = [saved(storage)]
    dist.broadcast_object_list(found, 0)
    for checkpoint in found[0]:
        if checkpoint_folder.step_of(checkpoint) > known:
            _register(checkpoint, {})
    return load(engine, found[0][-1]) if found[0] else None


def saved(storage: Path) -> list[Path]:
    """The checkpoints in a run's folder, or below its place in an object store, oldest first."""
    return (checkpoint_folder if remote_uri(storage) is None else stored_checkpoints).checkpoints(storage)


def load(engine: Engine, checkpoint: Path) -> dict[str, Any]:
    """Restore a checkpoint, fetched first where it is in an object store; all ranks call it. Returns its state."""
    folder = agree(lambda: mirror.fetch(checkpoint), subject=shown(checkpoint), remedy=_REMEDY)
    state = engine.load(folder)
    if remote_uri(checkpoint) is not None:
        # Others of this machine may still read it.
        dist.barrier()
        shutil.rmtree(folder, ignore_errors=True)
    return state


def write_student(engine: Engine, source: str, target: Path, *, head: str) -> None:
    """Save the student as a transformers checkpoint with the tokenizer of ``source``; all ranks call it.

    Rank 0 writes under another name and renames, so ``target`` is never half-written. Raises StorageError on all.
    """
    state = engine.student_state()

    def write() -> None:
        assert state is not None
        model = load_model(source, head=head)
        model.load_state_dict(state)
        save_model(model, load_tokenizer(source), checkpoint_folder.start_partial(target))
        checkpoint_folder.finish(target)
        mirror.publish(target)

    try:
        agree(_at_first(write), subject=shown(target.parent), remedy=_REMEDY)
    except StorageError:
        _at_first(lambda: checkpoint_folder.remove_partial(target))()
        raise


def _storage() -> Path:
    """The run's folder, of an object store the local path that stands for it."""
    storage = ray.train.get_context().get_storage()
    if isinstance(storage.storage_filesystem, S3FileSystem):
        return local_path(SCHEME + storage.experiment_fs_path)
    return Path(storage.experiment_fs_path)


def _at_first(action: Callable[[], T]) -> Callable[[], T | None]:
    """``action`` on rank 0, nothing elsewhere."""
    return action if dist.get_rank() == 0 else lambda: None


def _finish(target: Path, files: dict[str, dict[str, int | str]]) -> None:
    checkpoint_folder.seal(checkpoint_folder.partial_path(target), files)
    checkpoint_folder.finish(target)


def _register(checkpoint: Path, metrics: Mapping[str, float]) -> None:
    """Tell Ray Train of a checkpoint that lies where its own would."""
    storage, uri = ray.train.get_context().get_storage(), remote_uri(checkpoint)
    path = str(checkpoint) if uri is None else object_store.place(uri)
    ray.train.report(
        dict(metrics),
        checkpoint=Checkpoint(path, filesystem=storage.storage_filesystem),
        checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
    )


def _probe(storage: Path) -> None:
    """Raise OSError where a run could not keep anything."""
    file = storage / ".probe"
    file.write_bytes(bytes(4096))
    file.unlink()
