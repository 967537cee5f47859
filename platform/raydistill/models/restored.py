"""A pruned model in the shape before pruning, for libraries that know no pruned models."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.models.blocks import family_of
from raydistill.models.kept_units import KeptUnits, head_size, kept_of, set_kept
from raydistill.models.load import (
    head_of,
    load_config,
    load_model,
    load_tokenizer,
    model_class,
    save_model,
    stored_head,
)
from raydistill.models.unit_masks import unit_names


def restored(model: nn.Module) -> nn.Module:
    """A plain transformers model with the logits of a pruned one, in evaluation mode and the shape before pruning.

    It has zeros in place of what was removed, with a removed sub-layer the bias of its output too, so it is not
    smaller. A model that is not pruned is copied.
    """
    config: Any = copy.deepcopy(model.config)
    kept = kept_of(config)
    if kept is None:
        return copy.deepcopy(model).eval()
    set_kept(config, None)
    with torch.random.fork_rng(devices=[]):
        made: Any = model_class(head_of(model)).from_config(config, dtype=model.dtype, attn_implementation="sdpa")
    tensors = dict(model.state_dict())
    _fill(tensors, made.state_dict(), config, kept)
    made.load_state_dict(tensors)
    restored_model: nn.Module = made.eval()
    return restored_model


def _fill(tensors: dict[str, Tensor], full: dict[str, Tensor], config: Any, kept: KeptUnits) -> None:
    """Put zeros where the tensors of kept units lack those of a full model."""
    names, prefix, size = unit_names(config), family_of(config).LAYERS, head_size(config)
    for number, (heads, neurons) in enumerate(zip(kept.heads, kept.neurons, strict=True)):
        of_heads = [head * size + place for head in heads for place in range(size)]
        makers = ((names.query, of_heads), (names.key, of_heads), (names.value, of_heads))
        for module, units in (*makers, (names.intermediate, list(neurons))):
            for kind in ("weight", "bias"):
                _spread(tensors, full, f"{prefix}.{number}.{module}.{kind}", units, dimension=0)
        for module, units in ((names.attention_output, of_heads), (names.output, list(neurons))):
            _spread(tensors, full, f"{prefix}.{number}.{module}.weight", units, dimension=1)
            if not units:
                bias = f"{prefix}.{number}.{module}.bias"
                tensors[bias] = torch.zeros_like(full[bias])


def _spread(
    tensors: dict[str, Tensor], full: dict[str, Tensor], name: str, units: list[int], *, dimension: int
) -> None:
    zeros = torch.zeros_like(full[name])
    if units:
        zeros.index_copy_(dimension, torch.tensor(units), tensors[name].to(zeros))
    tensors[name] = zeros


def save_restored(folder: str | Path, target: str | Path) -> KeptUnits | None:
    """Write the checkpoint in ``folder`` to ``target`` in its full shape, tokenizer included; returns the kept units.

    A checkpoint that is not pruned is left alone: nothing is written and None comes back. Raises ValueError as
    ``load_model`` does.
    """
    config = load_config(folder)
    kept = kept_of(config)
    if kept is not None:
        model = load_model(folder, head=stored_head(config))
        save_model(restored(model), load_tokenizer(folder), target)
    return kept
