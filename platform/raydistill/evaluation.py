"""How good models are on held-out rows, all of them on the same targets."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from raydistill.batch import Batch
from raydistill.data.mixture import CorpusPart
from raydistill.data.stream import FeedSpec, held_out_batches
from raydistill.models.load import load_model
from raydistill.tasks._base import TaskBase

Figures = dict[str, float]


def evaluate_models(
    models: Mapping[str, str],
    corpus: str | Sequence[CorpusPart],
    *,
    task: Mapping[str, Any],
    seed: int,
    max_rows: int | None = None,
    batch_size: int = 32,
    names: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Figures]:
    """Figures of each checkpoint folder by the name it is given, on at most ``max_rows`` rows of a corpus.

    ``corpus``: one corpus's URI, or several with weights. ``task``: its section, name and options. ``names`` has those
    of a classifier's outputs where its checkpoint does not name them. The figures are the task's metrics and
    ``parameters``. Raises ValueError when there is nothing to score.
    """
    spec = FeedSpec.make(corpus, task, None, seed=seed)
    batches = list(held_out_batches(spec, micro_batch_size=batch_size, num_rows=max_rows))
    scorer = spec.make_task()
    found = {}
    for name, folder in models.items():
        model = load_model(folder, head=scorer.HEAD, labels=scorer.labels, names=(names or {}).get(name, ()))
        found[name] = figures(model, scorer, batches)
    return found


@torch.no_grad()
def figures(model: nn.Module, task: TaskBase, batches: Iterable[Batch]) -> Figures:
    """The task's metrics of one model in evaluation mode over prepared batches, and its number of ``parameters``."""
    model.eval()
    sums: dict[str, Any] = {}
    for batch in batches:
        for name, value in task.score(model, batch).items():
            sums[name] = sums.get(name, 0.0) + value.cpu().numpy()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {**task.metrics(sums), "parameters": float(parameters)}
