"""What plan, stream, Ray Train and DeepSpeed leave of the speed of a bare step, and what a second worker adds.

``share_of_bare_step``: tokens/s of causal distillation by one worker of 2 threads, as share of the same steps in a
plain loop in one process, without Ray: method, backward pass, clipping, AdamW, on batches that were built before. The
plain loop has our optimizer and keeps its memory as ours does.
``long_step`` has the models of ``reference/workload.py``; ``short_step`` 2 layers, 256 wide, at the same vocabulary.
``two_workers``: tokens/s of two workers of one thread each as multiple of one such worker, at equal global batches of
32 rows in micro-batches of 8, with the models of ``short_step``. ``of_machine`` is that multiple as share of the
machine's own limit: what two plain loops of one thread, which share nothing, do in the time of one.

Both sides of a ratio run in turn, several times, and take the same batches; a figure is the median ratio over windows
of logging steps, without the first one, in which buffers are allocated. Building batches is tens of times faster than
these steps (``stream.py``) and runs ahead of them, so it falls mostly into that first window. Takes about nine minutes.
"""

import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import BertConfig, BertForMaskedLM

sys.path.insert(0, str(Path(__file__).parents[1]))

from integration.training.engine_settings import direct_feed
from raydistill import cluster
from raydistill.batch import Batch
from raydistill.computing import compute_with
from raydistill.config.sections import ScalingConfig
from raydistill.data.stream import FeedSpec
from raydistill.models.layer_selection import freeze_position_embeddings, student_from_layers
from raydistill.models.load import load_model, save_model
from raydistill.optim.optimizers import make_optimizer
from raydistill.optim.parameter_groups import parameter_groups
from raydistill.tracking.tracker import NullTracker
from raydistill.training.history import read_history
from raydistill.training.spec import TrainSpec
from raydistill.training.trainer import train
from reference.workload import ROWS, VOCABULARY, WIDTH, make_models
from toys.checkpoint import toy_tokenizer
from toys.corpus import write_corpus

SHARE, OF_MACHINE = 0.97, 0.95
ROUNDS = 2


@dataclass(frozen=True)
class Size:
    """A workload: its models in a folder, how many windows are timed, the first one besides."""

    name: str
    mapping: str | dict[str, Any]
    steps_per_window: int
    num_windows: int
    batch_size: int = ROWS

    @property
    def num_steps(self) -> int:
        """Steps of a run."""
        return (self.num_windows + 1) * self.steps_per_window


MIDDLE_2 = {"interchange_variable_mappings": [{"teacher_variable_names": ["$L:1"], "student_variable_names": ["$L:0"]}]}
LONG = Size("long_step", "middle_6", steps_per_window=1, num_windows=2)
SHORT = Size("short_step", MIDDLE_2, steps_per_window=4, num_windows=4)
SHARED = Size("short_step", MIDDLE_2, steps_per_window=1, num_windows=3, batch_size=4 * ROWS)


def rows(num_rows: int, *, seed: int) -> Iterator[NDArray[np.int64]]:
    """Rows of random ids, 60 to 100 % of ``WIDTH`` long."""
    random = np.random.default_rng(seed)
    for length in random.integers(int(0.6 * WIDTH), WIDTH + 1, num_rows):
        yield np.array([2, *random.integers(5, VOCABULARY, length - 2), 3])


def make_short_models() -> tuple[nn.Module, nn.Module]:
    """Teacher and student of ``short_step``."""
    torch.manual_seed(0)
    shape = {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 1024}
    teacher = BertForMaskedLM(BertConfig(vocab_size=VOCABULARY, **shape)).eval()
    return teacher, student_from_layers(teacher, architecture="distilbert", layers=[0, 1], vocab_transform=False)


def write_inputs(folder: Path) -> None:
    """Corpora and the models of both sizes."""
    write_corpus(folder / "train", rows(4096, seed=0), vocabulary=VOCABULARY, rows_per_shard=1024)
    write_corpus(folder / "validation", rows(ROWS, seed=1), vocabulary=VOCABULARY)
    for name, models in {LONG.name: make_models(), SHORT.name: make_short_models()}.items():
        for owner, model in zip(("teacher", "student"), models, strict=True):
            save_model(model, toy_tokenizer(), folder / name / owner)


def make_spec(folder: Path, size: Size, scaling: ScalingConfig) -> TrainSpec:
    """A training at the settings of the published job, but for the number and size of its steps."""
    models = folder / size.name
    return TrainSpec.model_validate(
        {
            "name": size.name,
            "corpus": str(folder / "train"),
            "validation": str(folder / "validation"),
            "student": str(models / "student"),
            "freeze_position_embeddings": True,
            "teachers": [{"folder": str(models / "teacher")}],
            "task": {"name": "mlm"},
            "method": {"name": "causal", "mapping": size.mapping},
            "training": {
                "max_steps": size.num_steps,
                "batch_size": size.batch_size,
                "micro_batch_size": ROWS,
                "group_by_length": False,
                "precision": "fp32",
                "logging_steps": size.steps_per_window,
                "eval_rows": ROWS,
            },
            "optimizer": {},
            "scaling": scaling,
            "seed": 1,
        }
    )


def loop_seconds(folder: Path, size: Size, *, num_workers: int, num_threads: int) -> list[float]:
    """Seconds of each window in the training loop, on a cluster of its own."""
    scaling = ScalingConfig(num_workers=num_workers, data_cpus=num_workers)
    with tempfile.TemporaryDirectory(dir=folder) as output, cluster.connection([scaling]):
        with patch.object(cluster, "threads_per_worker", return_value=num_threads):
            train(make_spec(folder, size, scaling), output, NullTracker(), "run")
        logged = [line for line in read_history(Path(output)) if "train/loss" in line]
    tokens = np.diff([0, *(line["progress/tokens"] for line in logged)])
    seconds = tokens / np.array([line["speed/tokens_per_s"] for line in logged])
    return seconds.tolist()[1:]


def bare_seconds(folder: Path, size: Size, *, num_threads: int) -> tuple[list[float], list[int]]:
    """Seconds and tokens of each window of the same steps in a plain loop."""
    compute_with(num_threads)
    spec = make_spec(folder, size, ScalingConfig())
    training, settings = spec.training, spec.optimizer
    student = load_model(spec.student, head="masked_lm").train()
    freeze_position_embeddings(student)
    teacher = load_model(spec.teachers[0].folder, head="masked_lm")
    method = spec.method.build(student, [teacher])
    groups = parameter_groups(method, weight_decay=settings.weight_decay)
    optimizer = make_optimizer(
        settings.name, groups, betas=settings.betas, epsilon=settings.epsilon, max_grad_norm=settings.max_grad_norm
    )
    for group in optimizer.param_groups:
        group["lr"] = 1e-5
    feed_spec = FeedSpec.make(
        spec.corpus,
        spec.task,
        spec.method,
        seed=spec.seed,
        batch_size=training.batch_size,
        num_micro_batches=training.num_micro_batches(1),
        group_by_length=training.group_by_length,
    )
    steps = list(direct_feed(feed_spec, rank=0, world_size=1, stop_step=size.num_steps))
    borders = [time.perf_counter()]
    for step, batches in enumerate(steps, 1):
        bare_step(method, optimizer, batches, max_grad_norm=settings.max_grad_norm)
        if step % size.steps_per_window == 0:
            borders.append(time.perf_counter())
    tokens = [sum(len(batch["token_index"]) for batch in batches) for batches in steps]
    windows = np.reshape(tokens, (-1, size.steps_per_window)).sum(axis=1)
    return np.diff(borders).tolist()[1:], windows.tolist()[1:]


def bare_step(
    method: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Batch], *, max_grad_norm: float
) -> None:
    """One optimizer step over all micro-batches."""
    counts = [method.denominators(batch) for batch in batches]
    totals = {name: torch.stack([count[name] for count in counts]).sum() for name in counts[0]}
    optimizer.zero_grad()
    for batch in batches:
        method(batch, totals)[0].backward()
    torch.nn.utils.clip_grad_norm_(method.parameters(), max_grad_norm)
    optimizer.step()


def measure_share(folder: Path, size: Size) -> None:
    """Print the loop's share of the bare step's tokens/s."""
    bare_before, tokens = bare_seconds(folder, size, num_threads=2)
    ratios, loops, bares = [], [], []
    for _ in range(ROUNDS):
        loop = loop_seconds(folder, size, num_workers=1, num_threads=2)
        bare_after, _ = bare_seconds(folder, size, num_threads=2)
        bare = [(before + after) / 2 for before, after in zip(bare_before, bare_after, strict=True)]
        ratios += [fast / slow for fast, slow in zip(bare, loop, strict=True)]
        loops += [count / seconds for count, seconds in zip(tokens, loop, strict=True)]
        bares += [count / seconds for count, seconds in zip(tokens, bare, strict=True)]
        bare_before = bare_after
    name = f"training_loop.share_of_bare_step.{size.name}"
    report(name, ratios, "x", bound=SHARE)
    report(f"{name}.loop", loops, "tokens/s")
    report(f"{name}.bare", bares, "tokens/s")


def plain_seconds(folder: Path, size: Size, *, num_processes: int) -> float:
    """Seconds of the windows of plain loops of one thread, each in a process of its own, at the same time."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, mp_context=context) as pool:
        runs = [pool.submit(bare_seconds, folder, size, num_threads=1) for _ in range(num_processes)]
        return statistics.mean(sum(run.result()[0]) for run in runs)


def measure_two_workers(folder: Path, size: Size) -> None:
    """Print how much faster two workers of one thread are than one, and what of it the machine could have given."""
    ratios, limits = [], []
    for _ in range(ROUNDS):
        one = loop_seconds(folder, size, num_workers=1, num_threads=1)
        two = loop_seconds(folder, size, num_workers=2, num_threads=1)
        ratios.append(statistics.median(slow / fast for slow, fast in zip(one, two, strict=True)))
        alone, beside = (plain_seconds(folder, size, num_processes=number) for number in (1, 2))
        limits.append(2 * alone / beside)
    report("training_loop.two_workers", ratios, "x")
    report("training_loop.two_workers.limit", limits, "x")
    shares = [ratio / limit for ratio, limit in zip(ratios, limits, strict=True)]
    report("training_loop.two_workers.of_machine", shares, "share", bound=OF_MACHINE)


def report(name: str, values: Iterable[float], unit: str, *, bound: float | None = None) -> None:
    """Print the median of some values as a figure."""
    value = statistics.median(values)
    figure = {"name": name, "value": round(value, 3), "unit": unit}
    print(json.dumps(figure if bound is None else {**figure, "bound": bound, "met": value >= bound}), flush=True)  # noqa: T201


def main() -> None:
    """Print the figures."""
    os.environ.pop("RAY_ADDRESS", None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder)
        measure_share(folder, SHORT)
        measure_share(folder, LONG)
        measure_two_workers(folder, SHARED)


if __name__ == "__main__":
    main()
