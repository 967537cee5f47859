"""Gradient checkpointing: a block keeps its input alone and is run again when its gradients are asked for.

Source: Chen et al. 2016, "Training deep nets with sublinear memory cost"; ``torch.utils.checkpoint``, not reentrant.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

_ATTRIBUTE = "raydistill_gradient_checkpointing"
_SECOND_RUN = -2
"""Pseudo module id by which the second run of a block holds gathered weights; the engine has another."""


def use_checkpointing(model: nn.Module) -> None:
    """Let all that runs the model from now on keep the inputs of its blocks in place of what they compute."""
    setattr(model, _ATTRIBUTE, True)


def uses_checkpointing(model: nn.Module) -> bool:
    """Whether a pass of the model keeps inputs of blocks alone: it was asked to, and gradients will be."""
    return torch.is_grad_enabled() and getattr(model, _ATTRIBUTE, False)


def checkpointed(block: nn.Module, run: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    """What ``run`` of a block returns; in the backward pass it is run again, with the same draws of dropout."""
    is_sharded = any(hasattr(parameter, "ds_id") for parameter in block.parameters())
    return checkpoint(
        run,
        *inputs,
        use_reentrant=False,
        # The second run usually ends at the last tensor that is needed, by an error that keeps the hooks of ZeRO-3,
        # which release gathered weights, from being called.
        early_stop=not is_sharded,
        context_fn=lambda: (nullcontext(), _active_weights_kept(block)),
        **options,
    )


@contextmanager
def _active_weights_kept(block: nn.Module) -> Iterator[None]:
    """Inside, modules that run forward do not release weights that ZeRO-3 gathered for their own backward pass."""
    parameters: list[Any] = [p for p in block.parameters() if getattr(p, "ds_active_sub_modules", ())]
    active = [(parameter, set(parameter.ds_active_sub_modules)) for parameter in parameters]
    for parameter, _ in active:
        parameter.ds_active_sub_modules.add(_SECOND_RUN)
    try:
        yield
    finally:
        for parameter, users in active:
            parameter.ds_active_sub_modules.discard(_SECOND_RUN)
            parameter.ds_active_sub_modules.update(users)


@contextmanager
def blocks_checkpointed(blocks: Sequence[Any]) -> Iterator[None]:
    """Inside, blocks that others call are checkpointed; what is run again is the forward without the block's hooks."""
    owned = [(block, "forward" in vars(block), block.forward) for block in blocks]
    for block, _, forward in owned:
        block.forward = _forward_of(block, forward)
    try:
        yield
    finally:
        for block, is_own, forward in owned:
            if is_own:
                block.forward = forward
            else:
                del block.forward


def _forward_of(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *inputs, **options: checkpointed(block, forward, *inputs, **options)
