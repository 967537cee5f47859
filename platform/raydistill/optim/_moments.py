"""The two running moments that Adam and its relatives keep, for all tensors of a group at once."""

from collections.abc import Callable, MutableMapping
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


class GroupedOptimizer(torch.optim.Optimizer):
    """Steps each group's tensors that have gradients at once; one without is left alone, its decay included."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Change every parameter that has a gradient; returns what ``closure``, if there is one, gave."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._step(parameters, group)
        return loss

    def _step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Change the ``parameters`` of a group, which all have gradients."""
        raise NotImplementedError


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
