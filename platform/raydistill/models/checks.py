"""What can be told of models from their configurations and file headers, before any weight is loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from raydistill.models.blocks import family_of
from raydistill.models.kept_units import kept_of
from raydistill.models.load import check_family, load_config, model_class, tensor_names, weight_files
from raydistill.models.small_shapes import shrink
from raydistill.models.stored_tensors import own_names
from raydistill.user_error import UserError


def missing_head(folder: str | Path, *, head: str) -> list[str]:
    """Tensors of the named head that a checkpoint folder lacks, read from its safetensors headers.

    Raises ValueError for a folder without safetensors files or a family without that head.
    """
    weight_files(folder)
    config = load_config(folder)
    check_family(config, head=head, of=folder)
    present = set(own_names(tensor_names(folder)).values())
    return [name for name in family_of(config.model_type).head_tensors(config, head) if name not in present]


def check_layers(layers: Sequence[int], num_layers: int, *, key: str) -> None:
    """Raise ValueError when ``layers``, the value of ``key``, names a block that a model of ``num_layers`` lacks."""
    if not layers:
        raise UserError(f"{key} is empty; name at least one block")
    for layer in layers:
        if not 0 <= layer < num_layers:
            raise UserError(f"{key} has {layer}; there are blocks 0 to {num_layers - 1}")


def max_length(config: Any) -> int:
    """Most tokens of a row that a model with this configuration has positions for."""
    return family_of(config.model_type).max_length(config)


def num_parameters(config: Any, *, head: str) -> int:
    """Parameters of a model with this configuration and head, tied ones once; allocates none."""
    with torch.device("meta"):
        model = model_class(head).from_config(config)
    kept = kept_of(config)
    if kept is not None:
        shrink(model, kept)
    return sum(parameter.numel() for parameter in model.parameters())
