"""A labelled toy corpus, a teacher and a student that classify, and stages of them, for tests of stored outputs."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raydistill.config.sections import ScalingConfig
from raydistill.data.corpus import Corpus, tokenizer_hash
from raydistill.data.teacher_inference import Share, TeacherOutputs, TeacherRun
from raydistill.data.teacher_outputs_writer import OutputSetWriter
from raydistill.models.load import load_tokenizer, save_model
from raydistill.stages import capture, train
from raydistill.stages._base import Run, Stage, StageContext
from raydistill.tasks import classification
from toys.classifiers import CLASSES, toy_classifier
from toys.corpus import random_rows, write_corpus
from toys.models import toy_bert
from toys.tracker import MemoryTracker
from toys.training import OPTIMIZER
from toys.words import make_tokenizer

KEY = "toy/run"


def write_labelled(folder: Path, *, rows_per_shard: int = 40) -> None:
    """``corpus`` with 90 rows to train on and 20 held out, and ``teacher``, a 3-block BERT of other class order."""
    make_tokenizer().save_pretrained(folder / "tokenizer")
    tokenizer = load_tokenizer(folder / "tokenizer")
    files = {path.name: path.read_bytes() for path in sorted((folder / "tokenizer").iterdir())}
    columns = classification.columns(classification.EncodeConfig(labels=CLASSES))
    for part, (count, seed) in {"train": (90, 0), "validation": (20, 1)}.items():
        rows = random_rows(count, seed=seed)
        labels = np.random.default_rng(seed).integers(0, len(CLASSES), count)
        write_corpus(
            folder / "corpus" / part,
            rows,
            rows_per_shard=rows_per_shard,
            tokenizer_files=files,
            tokenizer_hash=tokenizer_hash(tokenizer),
            encoding={"name": "classification", "labels": list(CLASSES), "max_length": 40},
            columns=columns,
            values=[{"label": label, "second": len(row)} for label, row in zip(labels, rows, strict=True)],
        )
    save_teacher(folder / "teacher", seed=0)


def write_texts(folder: Path, make: Any, task: str, *, tokenizer: Any = None, seed: int = 0) -> None:
    """``corpus`` with 90 rows to train on and 20 held out, and ``teacher``, a language model of 3 blocks of its ids.

    ``make`` makes toy models with the task's head.
    """
    made = tokenizer or make_tokenizer()
    save_model(make(3, dtype=torch.float32).eval(), made, folder / "teacher")
    made.save_pretrained(folder / "tokenizer")
    files = {path.name: path.read_bytes() for path in sorted((folder / "tokenizer").iterdir())}
    for part, (count, offset) in {"train": (90, 0), "validation": (20, 1)}.items():
        write_corpus(
            folder / "corpus" / part,
            random_rows(count, seed=seed + offset),
            rows_per_shard=40,
            tokenizer_files=files,
            tokenizer_hash=tokenizer_hash(load_tokenizer(folder / "teacher")),
            encoding={"name": task, "max_length": 40},
        )


def save_teacher(folder: Path, *, seed: int, num_layers: int = 3, labels: Sequence[str] = CLASSES[::-1]) -> None:
    """A classifier in float32 whose outputs are in another order than the corpus's classes."""
    model = toy_classifier(toy_bert, num_layers, labels=labels, seed=seed, dropout=0.2, dtype=torch.float32)
    save_model(model.eval(), make_tokenizer(), folder)


def capture_stage(folder: Path, **changes: Any) -> capture.Stage:
    """A capture of logits by the teacher."""
    config = {
        "kind": "capture",
        "corpus": str(folder / "corpus"),
        "teachers": [str(folder / "teacher")],
        "batch_size": 8,
        **changes,
    }
    return capture.Stage("capture", capture.Config.model_validate(config))


def train_stage(folder: Path, *, training: dict[str, Any] | None = None, **changes: Any) -> train.Stage:
    """A distillation of the teacher to a student of 2 of its blocks."""
    config = {
        "kind": "train",
        "corpus": str(folder / "corpus"),
        "task": "classification",
        "method": "kd",
        "teachers": [str(folder / "teacher")],
        "student": {"architecture": "bert", "layers": [0, 2]},
        "training": {
            "num_epochs": 2,
            "batch_size": 23,
            "micro_batch_size": 4,
            "dropout": 0.0,
            "precision": "fp32",
            "logging_steps": 1,
            "eval_steps": None,
            "save_steps": 1000,
            **(training or {}),
        },
        "optimizer": OPTIMIZER,
        **changes,
    }
    return train.Stage("distill", train.Config.model_validate(config))


def context_of(
    stage: Stage,
    output: Path,
    *,
    earlier: dict[str, Path] | None = None,
    storage: Path | None = None,
    seed: int = 5,
    **scaling: Any,
) -> StageContext:
    """What a job would hand a stage, with a tracker that keeps all it is told."""
    tracker = MemoryTracker()
    tracker.start_run(KEY)
    output.mkdir(parents=True, exist_ok=True)
    outputs = earlier or {}
    return StageContext(
        job_name="toy",
        seed=seed,
        scaling=ScalingConfig(**scaling),
        output=output,
        tracker=tracker,
        run_key=KEY,
        runs={name: [Run(name, {}, path, {})] for name, path in outputs.items()},
        storage=storage,
    )


def run_of(stage: capture.Stage, number: int, context: StageContext) -> TeacherRun:
    """What actors are told of a teacher of a capture."""
    return stage.teacher_run(number, stage.plan(context.scaling, context.inputs).teachers[number], context)


def outputs_here(items: list[dict[str, int]], run: TeacherRun, share: Share) -> Iterator[Any]:
    """What stands in for the actors of a capture, in this process."""
    outputs = TeacherOutputs(run) if items else None
    for item in items:
        assert outputs is not None
        yield outputs.of(item["corpus"], np.arange(item["start"], item["stop"]))


def write_sets(folder: Path, output: Path, **changes: Any) -> None:
    """What a capture would write, without Ray."""
    stage = capture_stage(folder, **changes)
    for teacher in range(len(stage.config.teachers)):
        run = run_of(stage, teacher, context_of(stage, output))
        outputs = TeacherOutputs(run)
        for number, (uri, target) in enumerate(zip(run.corpora, run.sets, strict=True)):
            offsets = Corpus.open(uri).shard_offsets
            with OutputSetWriter(target, run.headers[number], shard_rows=np.diff(offsets).tolist()) as writer:
                for start, stop in pairwise(offsets.tolist()):
                    writer.add(np.arange(start, stop), outputs.of(number, np.arange(start, stop)))
                writer.finish()


def metrics_of(context: StageContext) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of each metric that a run tracked."""
    assert isinstance(context.tracker, MemoryTracker)
    found: dict[str, list[tuple[int, float]]] = context.tracker.runs[KEY].metrics
    return found
