"""The family of a model, found by its configuration's ``model_type``."""

from functools import cache
from typing import Any

from torch import nn

from raydistill import discovery
from raydistill.models.blocks._base import Blocks
from raydistill.models.heads import has_head

_PACKAGE = "raydistill.models.blocks"


@cache
def _by_type() -> dict[str, type[Blocks]]:
    """Every family by each model type whose parts it knows."""
    found = (discovery.load(_PACKAGE, name).Family for name in discovery.names(_PACKAGE))
    return {model_type: family for family in found for model_type in family.MODEL_TYPES}


def families(head: str) -> list[str]:
    """Model types with a named head, sorted."""
    found = sorted(_by_type().items())
    return [name for name, family in found if head in (family.HEAD, *family.OUTPUTS) and has_head(name, head)]


def family_of(model_type: str) -> type[Blocks]:
    """The parts of a model type of transformers; raises ValueError with the choices for one that is not supported."""
    found = _by_type()
    if model_type not in found:
        raise ValueError(discovery.unknown_choice("model type", model_type, sorted(found)))
    return found[model_type]


def blocks_of(model: nn.Module) -> Blocks:
    """The parts of a model with a head.

    Raises ValueError for a family, an attention implementation or an option of the family that is not supported.
    """
    config: Any = model.config
    family = family_of(config.model_type)
    if config._attn_implementation != family.ATTENTION:
        raise ValueError(
            f"attention is {config._attn_implementation!r}; load the model with "
            f"attn_implementation={family.ATTENTION!r}"
        )
    refusal = family.refusal(config)
    if refusal is not None:
        raise ValueError(refusal)
    family.check_plan(config)
    blocks = family(model)
    if any(getattr(layer, "gradient_checkpointing", False) for layer in blocks.layers):
        # The second forward, in the backward pass, would take all packed states for one row.
        raise ValueError("gradient_checkpointing is true in the model; set it to false in the model's configuration")
    return blocks
