"""A worker of a group that Ray Train started: where it is, and how Ray Train hears of its checkpoints."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import torch.distributed as dist
from ray.train import Checkpoint, CheckpointUploadMode

from raydistill.batch import Batch
from raydistill.computing import compute_with
from raydistill.data.shared_reader import SharedReader
from raydistill.data.storages import path_of, storage_at
from raydistill.data.stream import FeedSpec, feed
from raydistill.store_paths import shown
from raydistill.training.agreement import agree
from raydistill.training.assembly import build_engine
from raydistill.training.checkpoint import REMEDY, at_first, load, write_checkpoint
from raydistill.training.checkpoint_store import checkpoints_at, step_of
from raydistill.training.engine import Engine, prepare_environment
from raydistill.training.progress import LOADING
from raydistill.training.session import Session
from raydistill.training.spec import TrainSpec
from raydistill.training.worker import FAILURES, Loop


def train_worker(config: Mapping[str, Any]) -> str:
    """Entry point of a Ray Train worker; ``config`` has plain data and actor handles.

    Returns why the training failed, where a restarted group of workers would meet the same, else nothing.
    """
    spec: TrainSpec = config["spec"].fetched()
    prepare_environment(use_gpu=spec.scaling.use_gpu)
    compute_with(config["num_threads"])
    context = ray.train.get_context()
    rank, num_workers = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    if rank == 0:
        config["board"].post.remote(LOADING)
    engine = build_engine(spec, num_workers=num_workers, device=device)
    loop = Loop(spec, engine, config, rank=rank, num_workers=num_workers, session=RayTrainSession(config["reader"]))
    try:
        loop.run()
    except FAILURES as error:
        return str(error)
    return ""


@dataclass(frozen=True)
class RayTrainSession(Session):
    """A worker of a group that Ray Train started."""

    reader: SharedReader | None = None
    """Reads for the data tasks of all workers, None where each reads for itself."""

    def restore(self, engine: Engine) -> dict[str, Any] | None:
        """As Ray Train knows it, or as it lies in the run's folder."""
        return _restore(engine)

    def save(self, engine: Engine, metrics: Mapping[str, float], state: Mapping[str, Any]) -> None:
        """A checkpoint that Ray Train is told of, which deletes older ones."""
        _register(write_checkpoint(engine, _storage(), state), metrics)

    def feed(self, spec: FeedSpec, **options: Any) -> Generator[list[Batch], None, None]:
        """Batches that Ray Data's tasks build."""
        return feed(spec, reader=self.reader, **options)


def _restore(engine: Engine) -> dict[str, Any] | None:
    """Restore the latest checkpoint of this run, if there is one; returns the state that was saved with it.

    All ranks call it. What lies in the run's folder counts, and Ray Train is told of what it does not know: a job
    that starts again begins with an empty list, and a crash may have come between writing and registering.
    """
    storage = _storage()
    checkpoints = checkpoints_at(storage)
    agree(at_first(checkpoints.probe), subject=shown(storage), remedy=REMEDY)
    registered = ray.train.get_checkpoint()
    known = -1 if registered is None else step_of(Path(registered.path))
    found: list[Any] = [checkpoints.finished()]
    dist.broadcast_object_list(found, 0)
    for checkpoint in found[0]:
        if step_of(checkpoint) > known:
            _register(checkpoint, {})
    return load(engine, found[0][-1]) if found[0] else None


def _storage() -> Path:
    """The run's folder, of an object store the local path that stands for it."""
    storage = ray.train.get_context().get_storage()
    return path_of(storage.experiment_fs_path, storage.storage_filesystem)


def _register(checkpoint: Path, metrics: Mapping[str, float]) -> None:
    """Tell Ray Train of a checkpoint that lies where its own would."""
    filesystem = ray.train.get_context().get_storage().storage_filesystem
    ray.train.report(
        dict(metrics),
        checkpoint=Checkpoint(storage_at(checkpoint).address, filesystem=filesystem),
        checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
    )
