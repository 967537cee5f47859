"""The two running moments that Adam and its relatives keep, for all tensors of a group at once."""

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Stepped:
    """Tensors of a group that have gradients, in one order; the moments already hold these gradients."""

    parameters: list[Tensor]
    exp_avg: list[Tensor]
    exp_avg_sq: list[Tensor]


def parameters_with_gradients(group: dict[str, Any]) -> list[Tensor]:
    """What a step changes of a group: a tensor without a gradient is left alone, its decay included."""
    return [parameter for parameter in group["params"] if parameter.grad is not None]


def add_gradients(
    parameters: list[Tensor], state: MutableMapping[Tensor, dict[str, Any]], *, betas: tuple[float, float]
) -> Stepped:
    """Take the gradients of ``parameters``, which all have one, into their moments, which start at 0."""
    for parameter in parameters:
        for key in ("exp_avg", "exp_avg_sq"):
            # Not all at once: a restored state may come key by key.
            if key not in state[parameter]:
                state[parameter][key] = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    stepped = Stepped(
        parameters, [state[p]["exp_avg"] for p in parameters], [state[p]["exp_avg_sq"] for p in parameters]
    )
    torch._foreach_lerp_(stepped.exp_avg, gradients, 1 - betas[0])
    torch._foreach_mul_(stepped.exp_avg_sq, betas[1])
    torch._foreach_addcmul_(stepped.exp_avg_sq, gradients, gradients, value=1 - betas[1])
    return stepped
