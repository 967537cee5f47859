"""The family of a model, found by its configuration's ``model_type``."""

from functools import cache
from typing import Any

from torch import nn

from raydistill import discovery
from raydistill.models.blocks._attention import SUPPORTED
from raydistill.models.blocks._base import Blocks
from raydistill.user_error import UserError

_PACKAGE = "raydistill.models.blocks"


def families(head: str) -> list[str]:
    """Model types with a named head, sorted."""
    found = ((name, family_of(name)) for name in discovery.names(_PACKAGE))
    return [name for name, family in found if head == family.HEAD or head in family.OUTPUTS]


@cache
def family_of(model_type: str) -> type[Blocks]:
    """The parts of a model type of transformers; raises ValueError with the choices for one that is not supported."""
    found: type[Blocks] = discovery.load(_PACKAGE, model_type, key="model type").Family
    return found


def blocks_of(model: nn.Module) -> Blocks:
    """The parts of a model with a head.

    Raises ValueError for a family, an attention implementation or an option of the family that is not supported.
    """
    config: Any = model.config
    family = family_of(config.model_type)
    if config._attn_implementation != SUPPORTED:
        raise UserError(
            f"attention is {config._attn_implementation!r}; load the model with attn_implementation={SUPPORTED!r}"
        )
    refusal = family.refusal(config)
    if refusal is not None:
        raise UserError(refusal)
    family.check_plan(config)
    blocks = family(model)
    if any(getattr(layer, "gradient_checkpointing", False) for layer in blocks.layers):
        # The second forward, in the backward pass, would take all packed states for one row.
        raise UserError("gradient_checkpointing is true in the model; set it to false in the model's configuration")
    return blocks
