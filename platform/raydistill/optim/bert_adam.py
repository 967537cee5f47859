"""Adam without bias correction that clips each tensor by itself: the optimizer of the first BERT code."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from raydistill.optim._moments import GroupedOptimizer, add_gradients

_TINY = 1e-6
"""What PyTorch's clipping adds to a norm before it divides by it."""


class BertAdam(GroupedOptimizer):
    """``p -= lr * (m / (sqrt(v) + eps) + weight_decay * p)`` with moments m and v that start at 0, uncorrected.

    Before that each tensor's gradient, the one in ``grad``, is scaled down to a norm of ``max_grad_norm``. A schedule
    is not a part of it. It has to see whole tensors, so it works where they are not sharded.
    Source: ``BertAdam`` of pytorch_pretrained_bert, as Pea-KD and PKD use it.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        max_grad_norm: float = 1.0,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "max_grad_norm": max_grad_norm,
            "weight_decay": weight_decay,
        }
        super().__init__(params, defaults)

    def _step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        _clip_each([p.grad for p in parameters if p.grad is not None], group["max_grad_norm"])
        stepped = add_gradients(parameters, self.state, betas=group["betas"])
        roots = torch._foreach_sqrt(stepped.exp_avg_sq)
        torch._foreach_add_(roots, group["eps"])
        if group["weight_decay"] > 0:
            # Before the update, which so decays the weight that the gradient was taken at.
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_addcdiv_(parameters, stepped.exp_avg, roots, value=-group["lr"])


def _clip_each(gradients: list[Tensor], max_norm: float) -> None:
    """Scale each gradient in place whose norm is above ``max_norm``."""
    scales = torch._foreach_norm(gradients)
    torch._foreach_add_(scales, _TINY)
    torch._foreach_reciprocal_(scales)
    torch._foreach_mul_(scales, max_norm)
    torch._foreach_clamp_max_(scales, 1.0)
    torch._foreach_mul_(gradients, scales)
