"""How good, how large and how fast models are on validation rows, all of them on the same targets."""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.batch import Batch, encoded_as
from raydistill.config.named import TaskSpec
from raydistill.data.mixture import CorpusPart
from raydistill.data.stream import FeedSpec, validation_batches
from raydistill.deploy.exported import ExportedModel, export_files, is_exported
from raydistill.losses.integrated_targets import concatenated_target, hard_choice, mixed_target, soft_choice
from raydistill.models.checks import num_parameters
from raydistill.models.classes import Names, class_order, known_labels
from raydistill.models.dropout_scores import single_pass_scores
from raydistill.models.load import CLASSIFIERS, load_config, load_model, weight_files
from raydistill.models.predictions import predict
from raydistill.tasks import classification
from raydistill.tasks._base import TaskBase

Figures = dict[str, float]

LATENCY, BATCH_LATENCY = "latency_ms", "batch_latency_ms"
LATENCY_SPREAD, BATCH_LATENCY_SPREAD = "latency_spread_ms", "batch_latency_spread_ms"
ROUNDS = 4
"""Times that each of several models is measured, in turn with the others."""
COSTS = ("parameters", "size_mb", LATENCY, BATCH_LATENCY)
"""Figures of a model beside the task's, of which less is better."""
_TIMED_BATCHES = 5
_LONGEST_S = 5.0
"""Time after which a measurement ends."""
_OF_VOCABULARY = ("masked_lm", "causal_lm")
_OF_CLASSES = "sequence_classification"
_SCORE_TEMPERATURE = 0.2
COMBINATIONS = ("concatenated", "weighted", "surest")
"""How classifiers answer as one: by a softmax over all their logits side by side, as the target of vanilla distillation
has it; by the mean of their own distributions under softmax(u / 0.2); or by that of the one with the greatest u. There
u = 1 - H / log C_t says how sure a classifier of C_t classes is in a single pass: MUKI's soft and hard targets."""


@dataclass(frozen=True)
class Checkpoints:
    """Where a model lies, or several classifiers that answer as one; each may know a part of the corpus's classes."""

    folders: tuple[str, ...]
    names: tuple[Names, ...] = ()
    """Of each what its outputs stand for where its checkpoint does not say so, else none; by default none at all."""
    combine: str = COMBINATIONS[0]
    """One of ``COMBINATIONS``; of a single model all are the same."""
    encodings: tuple[int, ...] = ()
    """Of each the encoding of the corpus that it reads, by default 0, the corpus's own."""


class ClassifierEnsemble(nn.Module):
    """Classifiers that answer as one.

    ``classes``: for each member the numbers of the classes that its outputs stand for, below ``num_classes``.
    ``combine``: one of ``COMBINATIONS``. ``encodings``: for each member the one that it reads, by default 0.
    """

    def __init__(
        self,
        members: Sequence[nn.Module],
        classes: Sequence[Sequence[int]],
        *,
        num_classes: int,
        combine: str,
        encodings: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self._encodings = [*encodings] or [0] * len(members)
        self._classes = [torch.tensor(list(numbers)) for numbers in classes]
        self._num_classes = num_classes
        self._combine = combine

    def forward(self, batch: Batch) -> Tensor:
        """Logarithms (B, num_classes) of the probabilities; -inf for a class that no member knows."""
        # In float64 no probability of a class that is known rounds to 0.
        logits = [
            predict(one, encoded_as(batch, encoding), head=_OF_CLASSES).logits.double()
            for one, encoding in zip(self.members, self._encodings, strict=True)
        ]
        if self._combine == "concatenated":
            return concatenated_target(logits, self._classes, self._num_classes, temperature=1.0).log()
        scores = torch.stack([single_pass_scores(one) for one in logits], dim=1)
        weights = (
            hard_choice(scores) if self._combine == "surest" else soft_choice(scores, temperature=_SCORE_TEMPERATURE)
        )
        return mixed_target(logits, self._classes, self._num_classes, weights=weights, temperature=1.0).log()


@dataclass(frozen=True)
class Evaluation:
    """What was found of one model."""

    figures: Figures
    """The task's metrics, ``parameters``, ``size_mb`` (10^6 bytes of weights on disk) and, where it was measured, the
    milliseconds a row of one row at a time (``latency_ms``) and of full batches (``batch_latency_ms``): medians, each
    with half the distance between the quartiles as its spread."""
    predictions: Mapping[str, Any] | None = None
    """Columns of the scored rows, as ``TaskBase.predictions`` has them; of a task whose targets are tokens ``row_id``
    and the sums of ``TaskBase.score_rows``."""
    classes: tuple[str, ...] = ()
    """Classes that it knows where it does not know all."""
    exported: bool = False
    """Whether another runtime than torch ran it."""


def evaluate_models(
    models: Mapping[str, str | Checkpoints],
    corpus: str | Sequence[CorpusPart],
    *,
    task: TaskSpec | Mapping[str, Any],
    seed: int,
    max_rows: int | None = None,
    skip_rows: int = 0,
    batch_size: int = 32,
    latency_repeats: int = 0,
) -> dict[str, Evaluation]:
    """What is found of each checkpoint folder, or ensemble of several, on at most ``max_rows`` rows of a corpus.

    They are the first of the rows in an order that ``seed`` draws, after ``skip_rows`` that are left out.

    A classifier may know a part of the corpus's classes; it predicts no other, and so is wrong about their rows. An
    infinite ``loss`` of such a classifier, or of an ensemble, is left out.
    ``corpus``: one corpus's URI, or several with weights. ``task``: a spec or its section, name and
    options.
    ``latency_repeats`` is the number of forward passes whose median is the latency; 0 measures none. Several models
    take turns in it, so that what slows the machine for a while slows all of them. Raises ValueError when there is
    nothing to score.
    """
    found_at = {name: Checkpoints((made,)) if isinstance(made, str) else made for name, made in models.items()}
    encodings = [encoding for one in found_at.values() for encoding in one.encodings]
    spec = FeedSpec.make(corpus, task, None, seed=seed, encodings=encodings)
    batches = list(validation_batches(spec, micro_batch_size=batch_size, num_rows=max_rows, skip_rows=skip_rows))
    rows = min(latency_repeats, max_rows or latency_repeats)
    rows_alone = list(validation_batches(spec, micro_batch_size=1, num_rows=rows)) if rows else []
    scorer = spec.make_task()
    found = {}
    for name, one in found_at.items():
        model, classes = _load(one, scorer)
        sums, told = _scored(model, scorer, _as_read(model, one, batches))
        values = _figures(model, scorer, sums)
        if isinstance(model, ClassifierEnsemble) and values.get("loss") == math.inf:
            # It gave a true class no chance, which says no more than that.
            del values["loss"]
        values["size_mb"] = sum(file.stat().st_size for folder in one.folders for file in _files(folder)) / 1e6
        if isinstance(model, ExportedModel):
            values["parameters"] = float(num_parameters(load_config(one.folders[0]), head=scorer.HEAD))
        found[name] = Evaluation(values, told, classes, isinstance(model, ExportedModel))
    del model
    if latency_repeats:
        for name, times in _latencies(found_at, scorer, rows_alone, batches, repeats=latency_repeats).items():
            found[name].figures.update(times)
    return found


def _files(folder: str) -> list[Path]:
    return export_files(folder) or weight_files(folder)


def _as_read(model: nn.Module, one: Checkpoints, batches: Sequence[Batch]) -> list[Batch]:
    """Batches in the encoding of a model; the members of an ensemble find theirs by themselves."""
    own = 0 if isinstance(model, ClassifierEnsemble) else next(iter(one.encodings), 0)
    return [encoded_as(batch, own) for batch in batches]


def _latencies(
    found_at: Mapping[str, Checkpoints],
    scorer: TaskBase,
    rows_alone: Sequence[Batch],
    batches: Sequence[Batch],
    *,
    repeats: int,
) -> dict[str, Figures]:
    """Medians and spreads of each model's passes over rounds in which all are measured, every other one backwards."""
    rounds = min(ROUNDS if len(found_at) > 1 else 1, repeats)
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in found_at}
    for number in range(rounds):
        share = repeats // rounds + (number < repeats % rounds)
        for name in list(found_at)[:: -1 if number % 2 else 1]:
            # Read again, since all at once may be more than there is memory for.
            model, _ = _load(found_at[name], scorer)
            for taken, these in zip(times[name], (rows_alone, batches), strict=True):
                read = _as_read(model, found_at[name], these)
                taken += passes_ms(model, scorer, read, repeats=share, start=len(taken), longest_s=_LONGEST_S / rounds)
    return {
        name: {
            LATENCY: statistics.median(single),
            LATENCY_SPREAD: _spread(single),
            BATCH_LATENCY: statistics.median(full),
            BATCH_LATENCY_SPREAD: _spread(full),
        }
        for name, (single, full) in times.items()
    }


def _spread(values: Sequence[float]) -> float:
    """Half the distance between the quartiles, 0 of a single value."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2


def _load(one: Checkpoints, scorer: TaskBase) -> tuple[nn.Module, tuple[str, ...]]:
    """One model of all checkpoints, and the classes that it knows where it does not know all."""
    labels, known = scorer.labels, [scorer.labels for _ in one.folders]
    found = list(zip(one.folders, one.names or ((),) * len(known), strict=True))
    if isinstance(scorer, classification.Task):
        known = [known_labels(load_config(folder), labels, names=names) for folder, names in found]
    members = [
        _loaded(folder, scorer.HEAD, classes, names) for (folder, names), classes in zip(found, known, strict=True)
    ]
    if known == [labels]:
        return members[0], ()
    model = ClassifierEnsemble(
        members,
        [[labels.index(name) for name in classes] for classes in known],
        num_classes=len(labels),
        combine=one.combine,
        encodings=one.encodings,
    )
    together = tuple(name for name in labels if any(name in classes for classes in known))
    return model, () if together == labels else together


def _loaded(folder: str, head: str, labels: Sequence[str], names: Names) -> nn.Module:
    if not is_exported(folder):
        return load_model(folder, head=head, labels=labels, names=names)
    order = class_order(load_config(folder), labels, names=names) if head in CLASSIFIERS else ()
    return ExportedModel(folder, head=head, order=order)


def figures(model: nn.Module, task: TaskBase, batches: Iterable[Batch]) -> Figures:
    """The task's metrics of one model in evaluation mode over prepared batches, and its number of ``parameters``."""
    return _figures(model, task, scored(model, task, batches))


@torch.no_grad()
def scored(model: nn.Module, task: TaskBase, batches: Iterable[Batch]) -> dict[str, Any]:
    """The task's sums over prepared batches, as NumPy values, of one model in evaluation mode."""
    model.eval()
    sums: dict[str, Any] = {}
    for batch in batches:
        for name, value in _score(model, task, batch).items():
            sums[name] = sums.get(name, 0.0) + value.cpu().numpy()
    return sums


@torch.no_grad()
def _scored(
    model: nn.Module, task: TaskBase, batches: Sequence[Batch]
) -> tuple[dict[str, Any], Mapping[str, Any] | None]:
    """The task's sums of one model in evaluation mode, and what is told of each row."""
    model.eval()
    found = [rows for batch in batches if (rows := task.score_rows(model, batch)) is not None]
    if not found:
        sums = scored(model, task, batches)
        return sums, task.predictions(sums)
    told = {name: torch.cat([rows[name] for rows in found]).cpu().numpy() for name in found[0]}
    row_ids = torch.cat([batch["row_id"] for batch in batches]).cpu().numpy()
    return {name: values.sum() for name, values in told.items()}, {"row_id": row_ids, **told}


def _score(model: nn.Module, task: TaskBase, batch: Batch) -> dict[str, Any]:
    if isinstance(model, ClassifierEnsemble) and isinstance(task, classification.Task):
        return task.score_logits(model(batch), batch)
    return task.score(model, batch)


def _figures(model: nn.Module, task: TaskBase, sums: Mapping[str, Any]) -> Figures:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {**task.metrics(sums), "parameters": float(parameters)}


@torch.no_grad()
def passes_ms(
    model: nn.Module,
    task: TaskBase,
    batches: Sequence[Batch],
    *,
    repeats: int,
    start: int = 0,
    longest_s: float = _LONGEST_S,
) -> list[float]:
    """Milliseconds a row of each of ``repeats`` forward passes over batches, after one pass that is not counted.

    At most five batches are taken in turn, spread evenly over those given, from number ``start`` on; after
    ``longest_s`` fewer repeats, at least one of each, are enough. Real tokens alone are computed, as in an evaluation.
    """
    run = _forward(model, task)
    count = min(_TIMED_BATCHES, len(batches))
    # Validation batches are sorted by length.
    chosen = [batches[(2 * number + 1) * len(batches) // (2 * count)] for number in range(count)]
    run(chosen[start % count])
    taken: list[float] = []
    begin = time.perf_counter()
    for number in range(repeats):
        if number % count == 0 and number and time.perf_counter() - begin > longest_s:
            break
        batch = chosen[(start + number) % count]
        before = time.perf_counter()
        run(batch)
        taken.append(1000 * (time.perf_counter() - before) / batch.num_rows)
    return taken


def _forward(model: nn.Module, task: TaskBase) -> Callable[[Batch], Any]:
    """A forward pass; with a vocabulary head its logits never exist at once, which only the task's score sees to."""
    model.eval()
    if isinstance(model, ClassifierEnsemble):
        return model
    if task.HEAD in _OF_VOCABULARY:
        return partial(task.score, model)
    return partial(predict, model, head=task.HEAD)
