"""How good, how large and how fast models are on held-out rows, all of them on the same targets."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raydistill.batch import Batch
from raydistill.data.mixture import CorpusPart
from raydistill.data.stream import FeedSpec, held_out_batches
from raydistill.models.load import load_model, weight_files
from raydistill.models.predictions import predict
from raydistill.tasks._base import TaskBase

Figures = dict[str, float]

LATENCY, BATCH_LATENCY = "latency_ms", "batch_latency_ms"
_TIMED_BATCHES = 5
_LONGEST_S = 5.0
"""Time after which a measurement ends."""
_OF_VOCABULARY = ("masked_lm", "causal_lm")


@dataclass(frozen=True)
class Evaluation:
    """What was found of one model."""

    figures: Figures
    """The task's metrics, ``parameters``, ``size_mb`` (10^6 bytes of weights on disk) and, where it was measured, the
    milliseconds a row of one row at a time (``latency_ms``) and of full batches (``batch_latency_ms``)."""
    predictions: Mapping[str, Any] | None = None
    """Columns of the scored rows, as ``TaskBase.predictions`` has them."""


def evaluate_models(
    models: Mapping[str, str],
    corpus: str | Sequence[CorpusPart],
    *,
    task: Mapping[str, Any],
    seed: int,
    max_rows: int | None = None,
    batch_size: int = 32,
    names: Mapping[str, Sequence[str]] | None = None,
    latency_repeats: int = 0,
) -> dict[str, Evaluation]:
    """What is found of each checkpoint folder by the name it is given, on at most ``max_rows`` rows of a corpus.

    ``corpus``: one corpus's URI, or several with weights. ``task``: its section, name and options. ``names`` has those
    of a classifier's outputs where its checkpoint does not name them. ``latency_repeats`` is the number of forward
    passes whose median is the latency; 0 measures none. Raises ValueError when there is nothing to score.
    """
    spec = FeedSpec.make(corpus, task, None, seed=seed)
    batches = list(held_out_batches(spec, micro_batch_size=batch_size, num_rows=max_rows))
    rows = min(latency_repeats, max_rows or latency_repeats)
    single = list(held_out_batches(spec, micro_batch_size=1, num_rows=rows)) if rows else []
    scorer = spec.make_task()
    found = {}
    for name, folder in models.items():
        model = load_model(folder, head=scorer.HEAD, labels=scorer.labels, names=(names or {}).get(name, ()))
        sums = scored(model, scorer, batches)
        sizes = {"size_mb": sum(file.stat().st_size for file in weight_files(Path(folder))) / 1e6}
        if latency_repeats:
            sizes[LATENCY] = latency_ms(model, scorer, single, repeats=latency_repeats)
            sizes[BATCH_LATENCY] = latency_ms(model, scorer, batches, repeats=latency_repeats)
        found[name] = Evaluation({**_figures(model, scorer, sums), **sizes}, scorer.predictions(sums))
    return found


def figures(model: nn.Module, task: TaskBase, batches: Iterable[Batch]) -> Figures:
    """The task's metrics of one model in evaluation mode over prepared batches, and its number of ``parameters``."""
    return _figures(model, task, scored(model, task, batches))


@torch.no_grad()
def scored(model: nn.Module, task: TaskBase, batches: Iterable[Batch]) -> dict[str, Any]:
    """The task's sums over prepared batches, as NumPy values, of one model in evaluation mode."""
    model.eval()
    sums: dict[str, Any] = {}
    for batch in batches:
        for name, value in task.score(model, batch).items():
            sums[name] = sums.get(name, 0.0) + value.cpu().numpy()
    return sums


def _figures(model: nn.Module, task: TaskBase, sums: Mapping[str, Any]) -> Figures:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {**task.metrics(sums), "parameters": float(parameters)}


@torch.no_grad()
def latency_ms(model: nn.Module, task: TaskBase, batches: Sequence[Batch], *, repeats: int) -> float:
    """Median milliseconds a row of ``repeats`` forward passes over batches, after one pass that is not counted.

    At most five batches are taken in turn, spread evenly over those given; after some seconds fewer repeats, at least
    one of each, are enough. Real tokens alone are computed, as in an evaluation.
    """
    run = _forward(model, task)
    count = min(_TIMED_BATCHES, len(batches))
    # Held-out batches are sorted by length.
    chosen = [batches[(2 * number + 1) * len(batches) // (2 * count)] for number in range(count)]
    run(chosen[0])
    taken: list[float] = []
    begin = time.perf_counter()
    for number in range(repeats):
        if number % count == 0 and number and time.perf_counter() - begin > _LONGEST_S:
            break
        batch = chosen[number % count]
        start = time.perf_counter()
        run(batch)
        taken.append(1000 * (time.perf_counter() - start) / batch.num_rows)
    return statistics.median(taken)


def _forward(model: nn.Module, task: TaskBase) -> Callable[[Batch], Any]:
    """A forward pass; with a vocabulary head its logits never exist at once, which only the task's score sees to."""
    model.eval()
    if task.HEAD in _OF_VOCABULARY:
        return partial(task.score, model)
    return partial(predict, model, head=task.HEAD)
