"""What one worker group of the engine tests runs: several settings one after the other, on batches read directly."""

import errno
import json
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray.train
import torch
from safetensors.torch import load_file

from raydistill.batch import Batch
from raydistill.data.plan import micro_batches
from raydistill.data.row_reader import MicroBatchRequest
from raydistill.data.stream import BatchBuilder, FeedSpec
from raydistill.evaluation import evaluate_models
from raydistill.interventions.sites import Variable
from raydistill.methods import causal
from raydistill.tracking.tracker import NullTracker
from raydistill.training import worker
from raydistill.training.agreement import StorageError, agree
from raydistill.training.assembly import build_engine
from raydistill.training.engine import Engine, prepare_environment
from raydistill.training.history import read_history
from raydistill.training.progress import Activity, Record
from raydistill.training.result import TrainResult
from raydistill.training.session import Session
from raydistill.training.spec import TrainSpec
from raydistill.user_error import UserError
from toys.shardable import held_numel
from toys.training import make_spec


def direct_feed(
    spec: FeedSpec, *, rank: int, world_size: int, start_step: int = 0, stop_step: int, **_: Any
) -> Iterator[list[Batch]]:
    """The batches of ``raydistill.data.stream.feed``, built in the worker without Ray Data."""
    builder = BatchBuilder(spec)
    for step in range(start_step, stop_step):
        rows = builder.plan.rows(step)
        parts = micro_batches(rows, rank=rank, world_size=world_size, num_micro_batches=spec.num_micro_batches)
        epoch = builder.plan.epoch_of(step)
        yield list(builder.batches([MicroBatchRequest(part, epoch, step, number) for number, part in enumerate(parts)]))


def batches_alone(spec: TrainSpec, *, num_steps: int) -> Iterator[list[Batch]]:
    """The micro-batches of each step of a worker that is alone."""
    training = spec.training
    feed_spec = FeedSpec.make(
        spec.corpus,
        spec.task,
        spec.method,
        seed=spec.seed,
        batch_size=training.batch_size,
        num_micro_batches=training.num_micro_batches(1),
    )
    return direct_feed(feed_spec, rank=0, world_size=1, stop_step=num_steps)


def losses_of(
    spec: TrainSpec, *, num_steps: int, learning_rate: float, after_step: Callable[[Engine], None] | None = None
) -> list[float]:
    """The loss of each step of an engine that is alone, at a constant rate; the dropout of a step is of the seed."""
    engine = build_engine(spec, num_workers=1, device=torch.device("cpu"))
    found = []
    for step, batches in enumerate(batches_alone(spec, num_steps=num_steps)):
        torch.manual_seed(1000 * spec.seed + step)
        counts = [engine.distiller.denominators(batch) for batch in batches]
        totals = {name: torch.stack([count[name] for count in counts]).sum() for name in counts[0]}
        found.append(float(engine.step(batches, [totals] * len(batches), learning_rate=learning_rate)["loss"]))
        if after_step is not None:
            after_step(engine)
    engine.close()
    return found


class Recorder:
    """Stands where the progress board's actor handle stands and keeps what is posted."""

    def __init__(self) -> None:
        self.records: list[dict[str, float]] = []
        self.post = SimpleNamespace(remote=self._keep)

    def _keep(self, record: Record | Activity) -> None:
        if isinstance(record, Record):
            self.records.append(dict(record.metrics))


Save = Callable[[Engine, dict[str, Any]], None]


class DirectSession(Session):
    """Batches that the loop's own process builds, and states that a test says what to do with."""

    def __init__(self, *, loaded: Path | None = None, save: Save = lambda engine, state: None) -> None:
        self._loaded, self._save = loaded, save

    def restore(self, engine: Engine) -> dict[str, Any] | None:
        return engine.load(self._loaded) if self._loaded else None

    def save(self, engine: Engine, metrics: Mapping[str, float], state: Mapping[str, Any]) -> None:
        self._save(engine, dict(state))

    def feed(self, spec: FeedSpec, **options: Any) -> Generator[list[Batch], None, None]:
        yield from direct_feed(spec, **options)


class SiteRecorder:
    """Stands where the method draws sites and keeps the student's blocks of each pass that trains."""

    def __init__(self) -> None:
        self.draw, self.blocks = causal.draw, list[list[int]]()

    def __call__(self, *arguments: Any) -> tuple[Variable, Variable]:
        teacher, student = self.draw(*arguments)
        # Once a forward pass: the teacher's sites are drawn without gradients, as are those of evaluations.
        if torch.is_grad_enabled():
            self.blocks.append([site.layer for site in student])
        return teacher, student


def run_settings(config: dict[str, Any]) -> None:
    """Worker of a group: run every setting and let rank 0 write what was seen to ``<folder>/<name>.json``."""
    prepare_environment(use_gpu=False)
    torch.set_num_threads(1)
    causal.draw = SiteRecorder()
    seen = {name: run_one(Path(config["folder"]), setting) for name, setting in config["settings"].items()}
    rank = ray.train.get_context().get_world_rank()
    seen["agreement"] = _what_all_hear(rank)
    (Path(config["folder"]) / f"{config['name']}-{rank}.json").write_text(json.dumps(seen))


def run_one(folder: Path, setting: dict[str, Any]) -> dict[str, Any]:
    """Train under one setting; returns what it left: losses by step, sites, history, result, failure and so on.

    ``save`` names the folders to keep the state in, ``load`` one to start from.
    ``plain`` has the figures of the student on disk, evaluated without an engine (rank 0).
    """
    setting = dict(setting)
    loaded, saved = setting.pop("load", None), setting.pop("save", None)
    context = ray.train.get_context()
    rank, num_workers = context.get_world_rank(), context.get_world_size()
    spec = make_spec(folder, num_workers=num_workers, **setting)
    engine = build_engine(spec, num_workers=num_workers, device=torch.device("cpu"))
    board = Recorder()
    output = folder / f"out-{num_workers}"
    output.mkdir(exist_ok=True)
    config = {"output": str(output), "tracker": NullTracker(), "run_key": "", "board": board}
    session = DirectSession(
        loaded=folder / loaded if loaded else None,
        save=lambda engine, state: _save(engine, folder, state, saved) if saved else None,
    )
    try:
        loop = worker.Loop(spec, engine, config, rank=rank, num_workers=num_workers, session=session)
    except UserError as error:
        engine.close()
        return {"failure": str(error), "losses": []}
    seen: dict[str, Any] = {"failure": "", "sites": []}
    causal.draw.blocks = seen["sites"]
    try:
        loop.run()
        if rank == 0:
            seen["result"] = asdict(TrainResult.read(output))
            seen["is_rounded"] = _is_rounded(output / "student")
            seen["plain"] = _plain_figures(spec, output / "student")
            seen["further"] = {path.name: _plain_figures(spec, path) for path in sorted(output.glob("best_*"))}
    except (worker.NonFiniteLossError, worker.EvaluationError) as error:
        seen["failure"] = str(error)
    seen["history"] = read_history(output)
    seen["teacher_numel"] = held_numel(engine.distiller.teachers[0])
    seen["best_folders"] = sorted(path.name for path in output.glob("best-*"))
    engine.close()
    seen["losses"] = [record["train/loss"] for record in board.records if "train/loss" in record]
    seen["validation"] = loop.position.metrics.get("validation/loss")
    return seen


def _what_all_hear(rank: int) -> str:
    """What this rank is told when the disk of the last one is full."""

    def write() -> None:
        if rank == ray.train.get_context().get_world_size() - 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "file")

    try:
        agree(write, subject="folder", remedy="make room")
    except StorageError as error:
        return str(error)
    return ""


def _save(engine: Engine, folder: Path, state: dict[str, Any], name: str) -> None:
    """Write the state of a step and nothing around it, in ``<name>-<step>``."""
    target = folder / f"{name}-{state['position']['step']}"
    target.mkdir(exist_ok=True)
    torch.distributed.barrier()
    engine.save(target, state)
    torch.distributed.barrier()


def _is_rounded(student: Path) -> bool:
    """Whether every weight is one that bfloat16 can hold."""
    weights = load_file(student / "model.safetensors")
    frozen = [name for name in weights if "position_embeddings" in name]
    return all(torch.equal(tensor, tensor.bfloat16().float()) for name, tensor in weights.items() if name not in frozen)


def _plain_figures(spec: TrainSpec, student: Path) -> dict[str, float]:
    models = {"student": str(student)}
    rows = spec.training.eval_rows
    return evaluate_models(models, spec.validation, task=spec.task.dump(), seed=worker.VALIDATION_SEED, max_rows=rows)[
        "student"
    ].figures
