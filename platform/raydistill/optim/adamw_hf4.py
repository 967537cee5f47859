"""AdamW as transformers 4 had it, which the published recipes of that time mean by the name."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from raydistill.optim._moments import GroupedOptimizer, add_gradients


class AdamWHF4(GroupedOptimizer):
    """``p -= lr * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps)``, then ``p -= lr * weight_decay * p``.

    PyTorch's AdamW adds ``eps`` after the correction of v, so that it weighs less in the first steps, and decays
    first. Every element is stepped by itself, so the tensors may be sharded or laid end to end.
    Source: ``AdamW`` of transformers 4; the class is gone in 5.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def _step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        stepped = add_gradients(parameters, self.state, betas=group["betas"])
        sizes = [-group["lr"] * _correction(self._count(parameter), group["betas"]) for parameter in parameters]
        roots = torch._foreach_sqrt(stepped.exp_avg_sq)
        torch._foreach_add_(roots, group["eps"])
        torch._foreach_addcdiv_(parameters, stepped.exp_avg, roots, sizes)
        if group["weight_decay"] > 0:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])

    def _count(self, parameter: Tensor) -> int:
        """Number, from 1, of the step that is being made with a parameter."""
        # A tensor on the CPU, as PyTorch's own optimizers have it: checkpoints restore it as one.
        count: Tensor = self.state[parameter].setdefault("step", torch.tensor(0.0))
        count += 1
        return int(count)


def _correction(count: int, betas: tuple[float, float]) -> float:
    """Both moments' bias correction as a factor of the learning rate."""
    return math.sqrt(1 - betas[1] ** count) / (1 - betas[0] ** count)
