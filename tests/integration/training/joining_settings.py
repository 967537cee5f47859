"""What one worker group of the test of knowledge integration runs: every method, one after the other."""

import json
from pathlib import Path
from typing import Any

import ray.train
import torch
import torch.distributed as dist
from torch import Tensor

from integration.training.engine_settings import direct_feed
from raydistill.data.stream import FeedSpec
from raydistill.models.load import save_model
from raydistill.training.assembly import build_engine
from raydistill.training.engine import prepare_environment
from raydistill.training.spec import TrainSpec
from toys.capture import save_teacher, write_labelled
from toys.classifiers import CLASSES, toy_classifier
from toys.models import toy_bert
from toys.shardable import held_numel
from toys.training import OPTIMIZER
from toys.words import make_tokenizer

NUM_STEPS = 4
BATCH_SIZE = 11


def write_joining(folder: Path) -> None:
    """A labelled corpus, a student of its three classes and two teachers of two each, one of which leaves one out."""
    write_labelled(folder)
    save_teacher(folder / "warm", seed=2, labels=("green", "red"))
    save_teacher(folder / "cold", seed=3, num_layers=4, labels=("grey", "blue", "green"))
    student = toy_classifier(toy_bert, 2, labels=CLASSES, seed=1, dtype=torch.float32)
    save_model(student.eval(), make_tokenizer(), folder / "student")


def joining_spec(folder: Path, method: Any, *, placement: str, micro_batch_size: int, num_workers: int) -> TrainSpec:
    """A training by a method that joins both teachers."""
    teachers: list[dict[str, Any]] = [
        {"folder": str(folder / "warm"), "placement": placement},
        {"folder": str(folder / "cold"), "placement": placement, "labels": [None, "blue", "green"]},
    ]
    training = {"batch_size": BATCH_SIZE, "micro_batch_size": micro_batch_size, "dropout": 0.0, "precision": "fp32"}
    return TrainSpec.model_validate(
        {
            "name": "toy",
            "corpus": str(folder / "corpus" / "train"),
            "validation": str(folder / "corpus" / "validation"),
            "student": str(folder / "student"),
            "freeze_position_embeddings": False,
            "teachers": teachers,
            "task": {"name": "classification"},
            "method": method,
            "training": {**training, "max_steps": NUM_STEPS},
            "optimizer": OPTIMIZER,
            "scaling": {"num_workers": num_workers},
            "seed": 7,
        }
    )


def run_joining(config: dict[str, Any]) -> None:
    """Worker of a group: train by every setting and write what this rank saw to ``<folder>/<name>-<rank>.json``."""
    prepare_environment(use_gpu=False)
    torch.set_num_threads(1)
    folder, rank = Path(config["folder"]), ray.train.get_context().get_world_rank()
    seen = {name: _run_one(folder, setting) for name, setting in config["settings"].items()}
    (folder / f"{config['name']}-{rank}.json").write_text(json.dumps(seen))


def _run_one(folder: Path, setting: dict[str, Any]) -> dict[str, Any]:
    """The terms of each step over all ranks, and how much of each teacher this rank holds."""
    context = ray.train.get_context()
    rank, num_workers = context.get_world_rank(), context.get_world_size()
    spec = joining_spec(folder, num_workers=num_workers, **setting)
    engine = build_engine(spec, num_workers=num_workers, device=torch.device("cpu"))
    feed = FeedSpec.make(
        spec.corpus,
        spec.task,
        spec.method,
        seed=spec.seed,
        batch_size=BATCH_SIZE,
        num_micro_batches=spec.training.num_micro_batches(num_workers),
    )
    steps = []
    for batches in direct_feed(feed, rank=rank, world_size=num_workers, stop_step=NUM_STEPS):
        counts = [engine.distiller.denominators(batch) for batch in batches]
        totals = {name: torch.stack([one[name].double() for one in counts]).sum() for name in counts[0]}
        found = engine.step(batches, [_over_ranks(totals)] * len(batches), learning_rate=0.02)
        steps.append({name: value.item() for name, value in _over_ranks(found).items()})
    held = [held_numel(teacher) for teacher in engine.distiller.teachers]
    engine.close()
    return {"steps": steps, "held": held}


def _over_ranks(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sums over all ranks."""
    together = torch.stack([value.double().reshape(()) for value in values.values()])
    dist.all_reduce(together)
    return dict(zip(values, together.unbind(), strict=True))
