"""What one worker group of the engine tests runs: several settings one after the other, on batches read directly."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray.train
import torch

from raydistill.batch import Batch
from raydistill.data.plan import micro_batches
from raydistill.data.stream import BatchBuilder, FeedSpec
from raydistill.tracking.tracker import NullTracker
from raydistill.training import worker
from raydistill.training.assembly import build_engine
from raydistill.training.engine import held_numel, prepare_environment
from toy_training import make_spec


def direct_feed(
    spec: FeedSpec, *, rank: int, world_size: int, start_step: int = 0, stop_step: int, **_: Any
) -> Iterator[list[Batch]]:
    """The batches of ``raydistill.data.stream.feed``, built in the worker without Ray Data."""
    builder = BatchBuilder(spec)
    for step in range(start_step, stop_step):
        rows = builder.plan.rows(step)
        parts = micro_batches(rows, rank=rank, world_size=world_size, num_micro_batches=spec.num_micro_batches)
        yield [builder.batch(part, epoch=builder.plan.epoch_of(step), step=step) for part in parts]


class Recorder:
    """Stands where the progress board's actor handle stands and keeps what is posted."""

    def __init__(self) -> None:
        self.records: list[dict[str, float]] = []
        self.post = SimpleNamespace(remote=lambda record: self.records.append(dict(record.metrics)))


def run_settings(config: dict[str, Any]) -> None:
    """Worker of a group: run every setting and let rank 0 write what was seen to ``<folder>/<name>.json``."""
    prepare_environment(use_gpu=False)
    torch.set_num_threads(1)
    worker.feed = direct_feed
    worker.restore = lambda engine: None
    worker.report_checkpoint = lambda engine, metrics, state: None
    seen = {name: run_one(Path(config["folder"]), setting) for name, setting in config["settings"].items()}
    rank = ray.train.get_context().get_world_rank()
    (Path(config["folder"]) / f"{config['name']}-{rank}.json").write_text(json.dumps(seen))


def run_one(folder: Path, setting: dict[str, Any]) -> dict[str, Any]:
    """Train under one setting; returns losses by step, the held-out loss at the end and the teacher's share."""
    context = ray.train.get_context()
    rank, num_workers = context.get_world_rank(), context.get_world_size()
    spec = make_spec(folder, num_workers=num_workers, **setting)
    engine = build_engine(spec, num_workers=num_workers, device=torch.device("cpu"))
    board = Recorder()
    output = folder / f"out-{num_workers}"
    output.mkdir(exist_ok=True)
    config = {"output": str(output), "tracker": NullTracker(), "run_key": "", "board": board}
    loop = worker.Loop(spec, engine, config, rank=rank, num_workers=num_workers)
    failure = ""
    try:
        loop.run()
    except worker.NonFiniteLossError as error:
        failure = str(error)
    share = held_numel(engine.distiller.teachers[0])
    metrics = loop.position.metrics
    engine.close()
    losses = [record["train/loss"] for record in board.records if "train/loss" in record]
    return {"losses": losses, "held_out": metrics.get("held_out/loss"), "teacher_numel": share, "failure": failure}
