"""How well a model predicts tokens: what masked and causal language modelling are scored by."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from raydistill.batch import Batch
from raydistill.losses.chunked_head import DEFAULT_CHUNK_ROWS, logits_of
from raydistill.models.predictions import at_labels
from raydistill.user_error import UserError

GREATER_IS_BETTER = {"loss": False, "perplexity": False, "accuracy": True}
"""The metrics that models can be compared by."""

_LARGEST_EXPONENT = 700.0
"""Beyond it the exponential is no float."""


@torch.no_grad()
def token_sums(student: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Summed cross-entropy in nats (``loss``), ``correct`` answers and ``tokens``, over the labels of a batch.

    Logits of all labels never exist at once.
    """
    states, projection = at_labels(student, batch)
    labels = batch["labels"]
    loss = states.new_zeros((), dtype=torch.float64)
    correct = torch.zeros_like(loss)
    chunks = zip(states.split(DEFAULT_CHUNK_ROWS), labels.split(DEFAULT_CHUNK_ROWS), strict=True)
    for of_states, of_labels in chunks:
        logits = logits_of(of_states, projection)
        loss += cross_entropy(logits.float(), of_labels, reduction="sum")
        correct += (logits.argmax(-1) == of_labels).sum()
    return {"loss": loss, "correct": correct, "tokens": torch.full_like(loss, labels.shape[0])}


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
