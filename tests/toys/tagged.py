"""Batches of labelled rows without a corpus, and a short training on them, for tests of tasks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from raydistill.batch import Batch, collate
from raydistill.methods import finetune
from raydistill.tasks._base import Column, LabelledRow, TaskBase

PER_ROW, LIST = "row", "list"


def batch_of(rows: Sequence[LabelledRow], columns: Mapping[str, Column], row_ids: Sequence[int] | None = None) -> Batch:
    """A batch of rows with their columns as a corpus gives them; row ids count from 0 without others."""
    batch = collate([row.ids for row in rows], list(range(len(rows)) if row_ids is None else row_ids), pad_id=0)
    found = {}
    for name, column in columns.items():
        values = [row.values[name] for row in rows]
        if column.per == PER_ROW:
            found[name] = torch.tensor(values)
            continue
        found[name] = torch.from_numpy(np.concatenate([np.asarray(value, dtype=np.int64) for value in values]))
        if column.per == LIST:
            found[f"{name}_lengths"] = torch.tensor([len(value) for value in values])
    return batch.with_columns(**found)


def metrics_of(model: nn.Module, task: TaskBase, batches: Sequence[Batch]) -> dict[str, float]:
    """A model's metrics over prepared batches, their sums added."""
    model.eval()
    sums: dict[str, Any] = {}
    for batch in batches:
        for name, value in task.score(model, batch).items():
            sums[name] = sums.get(name, 0.0) + value.numpy()
    return task.metrics(sums)


def fit(model: nn.Module, batch: Batch, *, steps: int = 30, learning_rate: float = 1e-2) -> None:
    """Fine-tune a model on one prepared batch."""
    method = finetune.Method(finetune.Config(), model).train()
    optimizer = torch.optim.AdamW(method.parameters(), lr=learning_rate)
    for _ in range(steps):
        optimizer.zero_grad()
        method(batch, method.denominators(batch))[0].backward()
        optimizer.step()
