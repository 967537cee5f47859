"""Attention heads and feed-forward neurons of a model, its units: where they are, and masks over them by hooks.

Source: StarK, "Sparse teachers can be dense with knowledge" (EMNLP 2022); code GeneZC/StarK @ ac1e8d1. A head's mask
multiplies its states before the attention's output projection, a neuron's what its activation gives.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from raydistill.models import layer_plan
from raydistill.models.blocks import family_of, packed_families
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
    return ", ".join(name for name, family in sorted(packed_families().items()) if family.UNITS is not None)


def unit_names(config: Any) -> UnitNames:
    """Names of the modules that make a block's units; raises ValueError for a family without them."""
    names = family_of(config).UNITS
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
    blocks: Any = model.get_submodule(family_of(config).LAYERS)
    with ExitStack() as hooks:
        for number, block in enumerate(blocks):
            for name, seen in ((names.attention_output, heads), (names.output, neurons)):
                part = block.get_submodule(name)
                if isinstance(part, nn.Linear):
                    hooks.callback(part.register_forward_pre_hook(_hook(number, seen)).remove)
        yield


def _hook(number: int, seen: Seen) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor]]:
    return lambda _, inputs: (seen(number, inputs[0]),)
