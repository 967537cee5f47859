"""The family of a model, found by its configuration's ``model_type``."""

from functools import cache
from typing import Any

from torch import nn

from raydistill import discovery
from raydistill.models.blocks._base import Blocks
from raydistill.models.blocks.generic import Family as Generic
from raydistill.models.heads import VOCABULARY_HEADS, has_head, head_of
from raydistill.user_error import UserError

_PACKAGE = "raydistill.models.blocks"


@cache
def packed_families() -> dict[str, type[Blocks]]:
    """Every family that runs in parts, by each model type that it knows."""
    found = (discovery.load(_PACKAGE, name).Family for name in discovery.names(_PACKAGE))
    return {model_type: family for family in found for model_type in family.MODEL_TYPES}


def families(head: str) -> list[str]:
    """Model types with a named head that run in parts, sorted."""
    found = sorted(packed_families().items())
    return [name for name, family in found if head in (family.HEAD, *family.OUTPUTS) and has_head(name, head)]


def family_of(config: Any, head: str | None = None) -> type[Blocks]:
    """How models of a configuration run, with a named head: in parts where their type, head and options allow it."""
    found = packed_families().get(config.model_type)
    if found is None or found.limit(config) is not None:
        return Generic
    return found if head is None or head in found.heads(config) or head in VOCABULARY_HEADS else Generic


def how_run(config: Any, head: str) -> str:
    """What a plan says of a model that does not run packed; empty for one that does."""
    if family_of(config, head).IN_PARTS:
        return ""
    known = packed_families().get(config.model_type)
    why = None if known is None else known.limit(config)
    return ", runs whole on padded rows, which is slower" + (f" ({why})" if why else "")


def blocks_of(model: nn.Module) -> Blocks:
    """How a model with a head runs.

    Raises ValueError for an attention implementation or an option of the family that is not supported.
    """
    config: Any = model.config
    family = family_of(config, head_of(model))
    if family.ATTENTION is not None and config._attn_implementation != family.ATTENTION:
        raise UserError(
            f"attention is {config._attn_implementation!r}; load the model with "
            f"attn_implementation={family.ATTENTION!r}"
        )
    refusal = family.refusal(config)
    if refusal is not None:
        raise UserError(refusal)
    family.check_plan(config)
    blocks = family(model)
    if family.IN_PARTS and any(getattr(layer, "gradient_checkpointing", False) for layer in blocks.layers):
        # The second forward, in the backward pass, would take all packed states for one row.
        raise UserError("gradient_checkpointing is true in the model; set it to false in the model's configuration")
    return blocks
