"""Attention heads and feed-forward neurons of a model, its units: where they are, and masks over them by hooks.

Source: StarK, "Sparse teachers can be dense with knowledge" (EMNLP 2022); code GeneZC/StarK @ ac1e8d1. A head's mask
multiplies its states before the attention's output projection, a neuron's what its activation gives.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from raydistill.models import layer_plan
from raydistill.models.blocks import families, family_of
from raydistill.models.blocks._base import UnitNames
from raydistill.models.kept_units import kept_of
from raydistill.user_error import UserError

Seen = Callable[[int, Tensor], Tensor]
"""Given a block's number and its heads' states (..., H * d), or its neurons (..., F), what stands in their place."""


def check_units(config: Any) -> None:
    """Raise ValueError for a model whose heads and neurons cannot be scored or pruned: the family has none, its
    blocks are shared by a layer plan, or it is pruned already.
    """
    unit_names(config)
    if layer_plan.plan_of(config) is not None:
        raise UserError("the model has a layer_plan; heads and neurons of shared blocks cannot be pruned")
    if kept_of(config) is not None:
        raise UserError("the model is already pruned; choose the checkpoint that it was pruned from")


def _prunable() -> str:
    return ", ".join(name for name in families("masked_lm") if family_of(name).UNITS is not None)


def unit_names(config: Any) -> UnitNames:
    """Names of the modules that make a block's units; raises ValueError for a family without them."""
    names = family_of(config.model_type).UNITS
    if names is None:
        raise UserError(f"the model is a {config.model_type}; heads and neurons can be pruned of {_prunable()}")
    return names


@contextmanager
def units_seen(model: nn.Module, heads: Seen, neurons: Seen) -> Iterator[None]:
    """Inside, each block's units go through the two functions; the model is as before afterwards.

    Sub-layers that are removed are not seen.
    """
    config: Any = model.config
    names = unit_names(config)
    blocks: Any = model.get_submodule(family_of(config.model_type).LAYERS)
    with ExitStack() as hooks:
        for number, block in enumerate(blocks):
            for name, seen in ((names.attention_output, heads), (names.output, neurons)):
                part = block.get_submodule(name)
                if isinstance(part, nn.Linear):
                    hooks.callback(part.register_forward_pre_hook(_hook(number, seen)).remove)
        yield


def _hook(number: int, seen: Seen) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor]]:
    return lambda _, inputs: (seen(number, inputs[0]),)


@contextmanager
def head_and_neuron_masks(
    model: nn.Module, *, heads: Tensor | None = None, neurons: Tensor | None = None, row: Tensor | None = None
) -> Iterator[None]:
    """Inside, masks multiply the units of a model that is not pruned; their gradients are those of the masks.

    Shapes: ``heads`` (L, H) and ``neurons`` (L, F) for all rows; or (B, L, H) and (B, L, F), one a row: of padded
    states (B, T, D), and with ``row`` (R,), the row of each state, of packed ones (1, R, D).
    """
    check_units(model.config)

    def of_heads(number: int, states: Tensor) -> Tensor:
        if heads is None:
            return states
        split = states.unflatten(-1, (heads.shape[-1], -1))
        return (split * _mask_of(heads, number, row)[..., None]).flatten(-2)

    def of_neurons(number: int, states: Tensor) -> Tensor:
        return states if neurons is None else states * _mask_of(neurons, number, row)

    with units_seen(model, of_heads, of_neurons):
        yield


def _mask_of(masks: Tensor, number: int, row: Tensor | None) -> Tensor:
    """A block's mask with the dimensions of states before the units: (U,), (B, 1, U) or (R, U)."""
    mask = masks[..., number, :]
    if masks.dim() == 2:
        return mask
    return mask[:, None] if row is None else mask.index_select(0, row)
