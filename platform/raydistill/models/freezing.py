"""Parts of a student that training leaves as they are; to be called after loading, which forgets it."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from raydistill.models.blocks import family_of
from raydistill.models.heads import head_of
from raydistill.user_error import UserError

_EMBEDDINGS = ("embeddings", "embeddings_project", "embed_tokens", "embed_positions", "embed_in", "wte", "wpe")
"""Names of the embedding modules beside the blocks, over all families."""


def check_frozen_layers(layers: Sequence[int], num_layers: int) -> None:
    """Raise ValueError when ``student.freeze_layers`` names a block that a student of ``num_layers`` lacks."""
    for layer in layers:
        if not 0 <= layer < num_layers:
            raise UserError(
                f"student.freeze_layers has {layer}; the student has blocks 0 to {num_layers - 1}, choose among them"
            )


def freeze_layers(model: nn.Module, layers: Sequence[int]) -> None:
    """Take blocks, numbered from 0 as their weights lie in the model, out of training.

    Source: Pea-KD's ``--freeze_layer``, which counts from 1.
    """
    config: Any = model.config
    blocks: Any = model.get_submodule(family_of(config, head_of(model)).layers_name(model))
    check_frozen_layers(layers, len(blocks))
    for layer in layers:
        blocks[layer].requires_grad_(False)


def freeze_embeddings(model: nn.Module) -> None:
    """Take token, position and type embeddings and their norm out of training, with what is tied to them."""
    base: Any = model.base_model
    for name, module in base.named_modules():
        if name.rpartition(".")[2] in _EMBEDDINGS:
            module.requires_grad_(False)
