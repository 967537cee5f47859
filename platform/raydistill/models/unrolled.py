"""A model with a layer plan as one without: every step a block of its own, for libraries that know no plans."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raydistill.models import layer_plan
from raydistill.models.blocks import family_of
from raydistill.models.load import (
    head_of,
    load_config,
    load_model,
    load_tokenizer,
    model_class,
    save_model,
    stored_head,
)


def unrolled(model: nn.Module) -> nn.Module:
    """A plain transformers model with the logits of ``model`` in evaluation mode.

    It has as many blocks as the plan has steps, copies of those that the plan runs, with query and key exchanged where
    the plan exchanges them; ``drawn`` steps are plain. A model without a plan is copied.
    """
    config: Any = copy.deepcopy(model.config)
    plan = layer_plan.plan_of(config)
    if plan is None:
        return copy.deepcopy(model).eval()
    steps = layer_plan.plain(plan)
    layer_plan.set_plan(config, None)
    config.num_hidden_layers = len(steps)
    with torch.random.fork_rng(devices=[]):
        made: nn.Module = model_class(head_of(model)).from_config(config, dtype=model.dtype, attn_implementation="sdpa")
    made.load_state_dict(_repeated(model, steps))
    return made.eval()


def _repeated(model: nn.Module, steps: tuple[tuple[int, bool], ...]) -> dict[str, torch.Tensor]:
    """The model's tensors with those of each step's block under the step's number."""
    config: Any = model.config
    family = family_of(config)
    assert family.QUERY_AND_KEY is not None
    query, key = family.QUERY_AND_KEY
    tensors, prefix = model.state_dict(), f"{family.LAYERS}."
    found = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
    for number, (layer, swap) in enumerate(steps):
        source = f"{prefix}{layer}."
        for name in (name.removeprefix(source) for name in tensors if name.startswith(source)):
            module, _, kind = name.rpartition(".")
            other = {query: key, key: query}.get(module, module) if swap else module
            found[f"{prefix}{number}.{name}"] = tensors[f"{source}{other}.{kind}"]
    return found


def save_unrolled(folder: str | Path, target: str | Path) -> layer_plan.LayerPlan | None:
    """Write the checkpoint in ``folder`` to ``target`` without its plan, tokenizer included, and return the plan.

    A checkpoint without a plan is left alone: nothing is written and None comes back. Raises ValueError as
    ``load_model`` does.
    """
    config = load_config(folder)
    plan = layer_plan.plan_of(config)
    if plan is not None:
        model = load_model(folder, head=stored_head(config))
        save_model(unrolled(model), load_tokenizer(folder), target)
    return plan
