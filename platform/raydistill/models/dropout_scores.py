"""How sure a classifier is when its dropout stays on: Monte-Carlo dropout (Gal and Ghahramani 2016), as in MUKI."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.batch import Batch
from raydistill.models.load import with_dropout
from raydistill.models.predictions import predict


def has_dropout(config: Any) -> bool:
    """Whether a model of this configuration drops anything while it trains."""
    return bool(with_dropout(config, 0.0).to_dict() != config.to_dict())


def certainty(probabilities: Tensor) -> Tensor:
    """1 less the normalized entropy of the mean of K distributions.

    Shapes: ``probabilities`` (K, B, C), C >= 2; returns (B,) float32 in [0, 1], 1 for a single class.
    """
    mean = probabilities.float().mean(dim=0)
    return 1 + torch.xlogy(mean, mean).sum(dim=-1) / math.log(mean.shape[-1])


@torch.no_grad()
def dropout_scores(model: nn.Module, batch: Batch, *, head: str, seeds: Sequence[int]) -> Tensor:
    """Scores u (B,) float32 of a classifier of C classes: ``certainty`` of one pass with dropout for each seed.

    u = 1 - H(mean of softmax) / log C. The state of torch's generators is as before afterwards, and the model in
    evaluation mode. Deviation: the published code leaves dropout off, so that all passes are the same.
    """
    # Attention's dropout follows its module's own flag; nothing else in these models differs while training.
    model.train()
    try:
        with torch.random.fork_rng():
            passes = [_probabilities(model, batch, head, seed) for seed in seeds]
    finally:
        model.eval()
    return certainty(torch.stack(passes))


def _probabilities(model: nn.Module, batch: Batch, head: str, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return predict(model, batch, head=head).logits.float().softmax(dim=-1)
