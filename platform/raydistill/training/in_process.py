"""Train with one worker in this process: nothing is started, little is waited for."""

import gc
import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist

from raydistill import cluster
from raydistill.batch import Batch
from raydistill.computing import compute_with
from raydistill.data.storages import storage_at
from raydistill.data.stream import FeedSpec
from raydistill.data.stream_here import feed_here
from raydistill.tracking.tracker import Tracker
from raydistill.training.assembly import build_engine
from raydistill.training.checkpoint import load, write_checkpoint
from raydistill.training.checkpoint_store import Checkpoints
from raydistill.training.engine import Engine, prepare_environment
from raydistill.training.progress import LOADING
from raydistill.training.result import TrainResult
from raydistill.training.session import EvaluationCallback, SaveState, Session
from raydistill.training.spec import TrainSpec
from raydistill.training.trainer import checkpoints_of
from raydistill.training.worker import Loop


@dataclass(frozen=True)
class LocalSession(Session):
    """Checkpoints that this process removes, batches from a thread."""

    checkpoints: Checkpoints
    keep: int
    """Checkpoints that are kept."""
    callback: EvaluationCallback | None = None
    start: Path | None = None
    """Folder with a state to continue from, instead of the latest checkpoint."""
    is_copy: bool = False
    """Whether that state is of another training."""

    def restore(self, engine: Engine) -> dict[str, Any] | None:
        """The state that it was given to start from, else the latest checkpoint."""
        if self.start is not None:
            state = engine.load(self.start)
            if self.is_copy:
                # Its best students lie with the other training.
                state["position"] |= {"standing": {}, "further": {}, "best_metrics": {}, "saved_bests": []}
            return state
        found = self.checkpoints.finished()
        return load(engine, found[-1]) if found else None

    def save(self, engine: Engine, metrics: Mapping[str, float], state: Mapping[str, Any]) -> None:
        """A checkpoint, after which the oldest of too many go."""
        write_checkpoint(engine, self.checkpoints.folder, state)
        for old in self.checkpoints.finished()[: -self.keep]:
            storage_at(old).remove()

    def feed(self, spec: FeedSpec, **options: Any) -> Generator[list[Batch], None, None]:
        """Batches that a thread builds."""
        return feed_here(spec, **options)

    def evaluated(self, step: int, metrics: Mapping[str, float], save_state: SaveState) -> None:
        """Pass it on."""
        if self.callback is not None:
            self.callback(step, metrics, save_state)


class _NoBoard:
    """Stands where a progress board's actor handle stands; nobody looks."""

    post = SimpleNamespace(remote=lambda record: None)


def train_here(
    spec: TrainSpec,
    output: str,
    tracker: Tracker,
    run_key: str,
    *,
    parallel: int = 1,
    callback: EvaluationCallback | None = None,
    start: Path | None = None,
    is_copy: bool = False,
) -> TrainResult:
    """As ``raydistill.training.trainer.train``, for one worker and in this process and thread; losses are the same.

    ``start`` is a folder with a state to continue from instead of the training's own latest checkpoint, ``is_copy``
    whether another training left it. Raises ValueError as ``train`` does, and whatever ``callback`` raises, after which
    the same call continues.
    """
    checkpoints = checkpoints_of(output)
    checkpoints.prepare()
    config = {"output": output, "tracker": tracker, "run_key": run_key, "board": _NoBoard()}
    session = LocalSession(checkpoints, spec.training.save_total_limit, callback, start, is_copy)
    loop_here(spec, config, parallel=parallel, session=session)
    return TrainResult.read(Path(output))


def loop_here(
    spec: TrainSpec, config: Mapping[str, Any], *, parallel: int, session: LocalSession | None = None
) -> None:
    """Run the loop of the only worker, with the ``config`` that a ``Loop`` takes; raises as that does."""
    assert spec.scaling.num_workers == 1
    spec = spec.fetched()
    session = session or LocalSession(checkpoints_of(config["output"]), spec.training.save_total_limit)
    session.checkpoints.folder.mkdir(parents=True, exist_ok=True)
    device = _one_rank(use_gpu=spec.scaling.use_gpu)
    compute_with(cluster.threads_per_worker(spec.scaling, parallel=parallel))
    config["board"].post.remote(LOADING)
    engine = build_engine(spec, num_workers=1, device=device)
    try:
        Loop(spec, engine, config, rank=0, num_workers=1, session=session).run()
    finally:
        engine.close()
        del engine
        gc.collect()


def _one_rank(*, use_gpu: bool) -> torch.device:
    """A process group of this process alone, kept for its life: DeepSpeed goes on using the first that it meets."""
    prepare_environment(use_gpu=use_gpu)
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    if not dist.is_initialized():
        dist.init_process_group("nccl" if use_gpu else "gloo", store=dist.HashStore(), rank=0, world_size=1)
    if not use_gpu:
        return torch.device("cpu")
    torch.cuda.set_device(0)
    return torch.device("cuda", 0)
