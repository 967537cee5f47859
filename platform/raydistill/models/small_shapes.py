"""A model cut down to some of its attention heads and feed-forward neurons, in place."""

from typing import Any

import torch
from torch import Tensor, nn

from raydistill.models.blocks import family_of
from raydistill.models.blocks._base import UnitNames
from raydistill.models.kept_units import KeptUnits, head_size
from raydistill.models.unit_masks import unit_names


class NoAttention(nn.Module):
    """Takes the place of an attention without heads; adds nothing to the states, not even a bias."""

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        """Zeros of the states' shape, and no weights."""
        return torch.zeros_like(hidden_states), None


class Nothing(nn.Module):
    """Takes the place of an output projection without inputs; adds nothing to the states, not even a bias."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Zeros of the states' shape."""
        return torch.zeros_like(hidden_states)


def shrink(model: nn.Module, units: KeptUnits) -> None:
    """Leave a model, in each block, the units given, in the order given; its parameters are new ones.

    To be called before an optimizer is made. A sub-layer without units is replaced by one that adds nothing: no bias,
    no parameter.
    """
    config: Any = model.config
    names = unit_names(config)
    blocks: Any = model.get_submodule(family_of(config).LAYERS)
    for block, heads, neurons in zip(blocks, units.heads, units.neurons, strict=True):
        _shrink_attention(block, names, torch.tensor(heads, dtype=torch.int64), head_size(config))
        _shrink_neurons(block, names, torch.tensor(neurons, dtype=torch.int64))


def _shrink_attention(block: nn.Module, names: UnitNames, heads: Tensor, size: int) -> None:
    if len(heads) == 0:
        # The output projection may lie beside what is replaced, or in it.
        block.set_submodule(names.attention_output, nn.Identity())
        block.set_submodule(names.attention, NoAttention())
        return
    rows = (heads[:, None] * size + torch.arange(size)).flatten()
    for name in (names.query, names.key, names.value):
        _take(block.get_submodule(name), rows, outputs=True)
    _take(block.get_submodule(names.attention_output), rows, outputs=False)
    attention: Any = block.get_submodule(names.attention)
    for count, name in ((len(heads), "num_attention_heads"), (len(heads), "n_heads"), (len(rows), "all_head_size")):
        if hasattr(attention, name):
            setattr(attention, name, count)


def _shrink_neurons(block: nn.Module, names: UnitNames, neurons: Tensor) -> None:
    if len(neurons) == 0:
        block.set_submodule(names.intermediate, nn.Identity())
        block.set_submodule(names.output, Nothing())
        return
    _take(block.get_submodule(names.intermediate), neurons, outputs=True)
    _take(block.get_submodule(names.output), neurons, outputs=False)


@torch.no_grad()
def _take(linear: Any, numbers: Tensor, *, outputs: bool) -> None:
    """Leave a linear layer some of its outputs, or of its inputs, in this order."""
    for name, dimension in (("weight", 0 if outputs else 1), *([("bias", 0)] if outputs else [])):
        before = getattr(linear, name)
        if before is not None:
            taken = before.detach().index_select(dimension, numbers.to(before.device))
            setattr(linear, name, nn.Parameter(taken, before.requires_grad))
    linear.out_features, linear.in_features = linear.weight.shape
