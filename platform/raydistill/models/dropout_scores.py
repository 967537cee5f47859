"""How sure a classifier is when its dropout stays on: Monte-Carlo dropout (Gal and Ghahramani 2016), as in MUKI."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raydistill import draws
from raydistill.batch import Batch
from raydistill.models.load import with_dropout
from raydistill.models.predictions import predict


def has_dropout(config: Any) -> bool:
    """Whether a model of this configuration drops anything while it trains."""
    return bool(with_dropout(config, 0.0).to_dict() != config.to_dict())


def certainty(probabilities: Tensor) -> Tensor:
    """1 less the normalized entropy of the mean of K distributions.

    Shapes: ``probabilities`` (K, B, C), C >= 2; returns (B,) float32 or wider in [0, 1], 1 for a single class.
    """
    mean = probabilities.to(torch.promote_types(probabilities.dtype, torch.float32)).mean(dim=0)
    return 1 + torch.xlogy(mean, mean).sum(dim=-1) / math.log(mean.shape[-1])


def single_pass_scores(logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """``certainty`` of softmax(logits / temperature) alone; shapes (B, C), C >= 2, to (B,) float32 or wider."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return certainty(torch.softmax(wide / temperature, dim=-1)[None])


def pass_seeds(batch: Batch, *, seed: int, passes: int) -> list[int]:
    """A seed for each pass over a batch, keyed by ``seed`` and the id of its first row.

    So whoever runs the batch draws the same, while batches with other first rows draw anew. Waits for the device only
    where the batch does not tell its first row.
    """
    first = int(batch["row_id"][0]) if batch.first_row is None else batch.first_row
    seeds: list[int] = draws.integers("dropout passes", seed, first, np.arange(passes), high=2**62).tolist()
    return seeds


@torch.no_grad()
def dropout_scores(
    model: nn.Module, batch: Batch, *, head: str, seeds: Sequence[int], dropout: float | None = None
) -> Tensor:
    """Scores u (B,) of a classifier of C classes: ``certainty`` of one pass with dropout for each seed.

    u = 1 - H(mean of softmax) / log C, float32 or wider. ``dropout`` replaces the model's own in these passes. The
    state of torch's generators is as before afterwards, and the model in evaluation mode. Deviation: the published
    code leaves dropout off, so that all passes are the same.
    """
    with _dropping(model, dropout), torch.random.fork_rng():
        passes = [_probabilities(model, batch, head, seed) for seed in seeds]
    return certainty(torch.stack(passes))


def _probabilities(model: nn.Module, batch: Batch, head: str, seed: int) -> Tensor:
    torch.manual_seed(seed)
    logits = predict(model, batch, head=head).logits
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(dim=-1)


@contextmanager
def _dropping(model: nn.Module, dropout: float | None) -> Iterator[None]:
    """Inside, a model's parts drop, with a probability of their own or this one; afterwards all is as in evaluation."""
    own = [] if dropout is None else [(place, name, getattr(place, name)) for place, name in _places_of(model)]
    # Attention's dropout follows its module's own flag. The model itself stays in evaluation mode: while it trains, a
    # layer plan may be drawn anew.
    for part in model.children():
        part.train()
    try:
        for place, name, _ in own:
            setattr(place, name, dropout)
        yield
    finally:
        for place, name, before in own:
            setattr(place, name, before)
        model.eval()


def _places_of(model: nn.Module) -> Iterator[tuple[Any, str]]:
    """Each part that drops and the name of its probability."""
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            yield part, "p"
        # Decoders with rotary positions keep a number instead of a module.
        elif isinstance(getattr(part, "attention_dropout", None), int | float):
            yield part, "attention_dropout"
