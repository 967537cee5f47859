"""How well a model predicts tokens: what masked and causal language modeling are scored by."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from raydistill.batch import Batch
from raydistill.losses.chunked_head import DEFAULT_CHUNK_ROWS, logits_of
from raydistill.models.predictions import at_labels
from raydistill.user_error import UserError

GREATER_IS_BETTER = {"loss": False, "perplexity": False, "accuracy": True}
"""The metrics that models can be compared by, all of them means over tokens or functions of one."""

_LARGEST_EXPONENT = 700.0
"""Beyond it the exponential is no float."""


@torch.no_grad()
def token_sums(student: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Summed cross-entropy in nats (``loss``), ``correct`` answers and ``tokens``, over the labels of a batch.

    Logits of all labels never exist at once.
    """
    labels = batch["labels"]
    loss = labels.new_zeros((), dtype=torch.float64)
    correct = torch.zeros_like(loss)
    for logits, of_labels, _ in _chunks(student, batch):
        loss += cross_entropy(logits.float(), of_labels, reduction="sum")
        correct += (logits.argmax(-1) == of_labels).sum()
    return {"loss": loss, "correct": correct, "tokens": torch.full_like(loss, labels.shape[0])}


@torch.no_grad()
def token_rows(student: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The sums of ``token_sums`` for each row of a batch by itself, (B,) each."""
    sums = batch["labels"].new_zeros((3, batch.num_rows), dtype=torch.float64)
    for logits, of_labels, rows in _chunks(student, batch):
        loss = cross_entropy(logits.float(), of_labels, reduction="none").double()
        correct = (logits.argmax(-1) == of_labels).double()
        sums.index_add_(1, rows, torch.stack([loss, correct, torch.ones_like(loss)]))
    return dict(zip(("loss", "correct", "tokens"), sums, strict=True))


def _chunks(student: nn.Module, batch: Batch) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Logits of some labels at a time, those labels, and the row of each."""
    states, projection = at_labels(student, batch)
    rows = batch["label_index"].div(batch["input_ids"].shape[1], rounding_mode="floor")
    parts = (tensor.split(DEFAULT_CHUNK_ROWS) for tensor in (states, batch["labels"], rows))
    for of_states, of_labels, of_rows in zip(*parts, strict=True):
        yield logits_of(of_states, projection), of_labels, of_rows


def token_metrics(sums: Mapping[str, Any], *, nothing: str) -> dict[str, float]:
    """``loss`` is the mean cross-entropy in nats, ``perplexity`` its exponential, ``accuracy`` the share of labels that
    are the most likely id, ``tokens`` the number of labels. Raises ValueError with ``nothing`` when there is none.
    """
    tokens = float(sums["tokens"])
    if tokens == 0:
        raise UserError(nothing)
    loss = float(sums["loss"]) / tokens
    perplexity = math.exp(loss) if loss < _LARGEST_EXPONENT else math.inf
    return {"loss": loss, "perplexity": perplexity, "accuracy": float(sums["correct"]) / tokens, "tokens": tokens}
