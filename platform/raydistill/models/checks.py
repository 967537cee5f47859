"""What can be told of models from their configurations and file headers, before any weight is loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from raydistill.models.blocks import family_of
from raydistill.models.blocks.generic import NO_LIMIT
from raydistill.models.kept_units import kept_of
from raydistill.models.load import (
    check_family,
    check_shards,
    load_config,
    model_class,
    reading,
    tensor_names,
    tensor_shapes,
    weight_files,
)
from raydistill.models.small_shapes import shrink
from raydistill.models.stored_tensors import is_published, own_names
from raydistill.user_error import UserError


def missing_head(folder: str | Path, *, head: str) -> list[str]:
    """Tensors of the named head that a checkpoint folder lacks, read from its safetensors headers.

    Raises ValueError for a folder without safetensors files or a family without that head.
    """
    weight_files(folder)
    config = load_config(folder)
    check_family(config, head=head, of=folder)
    present = set(own_names(tensor_names(folder)).values())
    return [name for name in family_of(config, head).head_tensors(config, head) if name not in present]


def check_weights(folder: str | Path, *, head: str, allow_new_head: bool = False) -> None:
    """Raise ValueError for a checkpoint folder whose weights ``load_model`` could not read or would not take.

    Reads the headers of safetensors files alone: damaged files, shards that are missing or that no index lists, and
    tensors of another shape than the configuration's, of those of the head where no new one is allowed.
    """
    config, shapes = load_config(folder), tensor_shapes(folder)
    check_shards(folder, shapes)
    if kept_of(config) is not None or is_published(shapes):
        return
    with torch.device("meta"):
        model = model_class(head).from_config(config)
    prefix, own = f"{model.base_model_prefix}.", model.state_dict()
    for name, shape in shapes.items():
        # A checkpoint without a head has the names of the encoder alone.
        known = next((each for each in (name, prefix + name, name.removeprefix(prefix)) if each in own), None)
        if known is None or tuple(own[known].shape) == shape or (allow_new_head and not known.startswith(prefix)):
            continue
        raise UserError(
            f"{str(folder)!r} has {name} of shape {shape}, its config.json says {tuple(own[known].shape)}; correct it"
        )


def check_layers(layers: Sequence[int], num_layers: int, *, key: str) -> None:
    """Raise ValueError when ``layers``, the value of ``key``, names a block that a model of ``num_layers`` lacks."""
    if not layers:
        raise UserError(f"{key} is empty; name at least one block")
    for layer in layers:
        if not 0 <= layer < num_layers:
            raise UserError(f"{key} has {layer}; there are blocks 0 to {num_layers - 1}")


def max_length(config: Any) -> int:
    """Most tokens of a row that a model with this configuration has positions for."""
    return family_of(config).max_length(config)


def longest_row(folder: str | Path) -> int:
    """Most tokens of a row of the model in a folder; very many where there is none, or none that transformers knows.

    So a tokenizer may lie in a folder of its own, or beside a model that cannot be loaded here.
    """
    try:
        return max_length(load_config(folder))
    except UserError:
        return NO_LIMIT


def num_parameters(config: Any, *, head: str) -> int:
    """Parameters of a model with this configuration and head, tied ones once; allocates none."""
    return sum(parameter.numel() for parameter in without_values(config, head=head).parameters())


def without_values(config: Any, *, head: str) -> Any:
    """A model with this configuration and head whose parameters have shapes alone."""
    with torch.device("meta"), reading("the model's configuration describes no model"):
        model = model_class(head).from_config(config)
    kept = kept_of(config)
    if kept is not None:
        shrink(model, kept)
    return model
