"""Optimizers by name."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from raydistill.optim.adamw_hf4 import AdamWHF4
from raydistill.optim.bert_adam import BertAdam

OPTIMIZERS: Mapping[str, type[torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adamw_hf4": AdamWHF4,
    "bert_adam": BertAdam,
}
CLIP_PER_TENSOR = frozenset({"bert_adam"})
"""Those that clip gradients themselves, tensor by tensor: nothing else may, and they must see whole tensors."""

FUSED = frozenset({"adamw"})
"""Those whose whole step is one kernel, on CPUs as on GPUs: one passage over weights, gradients and moments."""


def make_optimizer(
    name: str, groups: Sequence[dict[str, Any]], *, betas: tuple[float, float], epsilon: float, max_grad_norm: float
) -> torch.optim.Optimizer:
    """An optimizer of parameter groups, each with its weight decay; its learning rate is 0 until it is set.

    ``max_grad_norm`` counts for the optimizers in ``CLIP_PER_TENSOR`` alone.
    """
    clipping = {"max_grad_norm": max_grad_norm} if name in CLIP_PER_TENSOR else {}
    fused = {"fused": True} if name in FUSED else {}
    made: Any = OPTIMIZERS[name]
    optimizer: torch.optim.Optimizer = made([*groups], lr=0.0, betas=betas, eps=epsilon, **clipping, **fused)
    return optimizer
