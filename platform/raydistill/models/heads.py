"""Heads of models, by the names that tasks call them, and the classes of transformers that have them."""

from functools import cache
from typing import Any

from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from transformers.models.auto import modeling_auto

from raydistill.user_error import UserError

_HEADS: dict[str, Any] = {
    "causal_lm": AutoModelForCausalLM,
    "masked_lm": AutoModelForMaskedLM,
    "sequence_classification": AutoModelForSequenceClassification,
    "token_classification": AutoModelForTokenClassification,
    "question_answering": AutoModelForQuestionAnswering,
}
HEADS = tuple(_HEADS)
"""Names of all heads."""
VOCABULARY_HEADS = ("masked_lm", "causal_lm")
"""Heads whose outputs are tokens."""
CLASSIFIERS = ("sequence_classification", "token_classification")
"""Heads whose outputs are classes with names, or a score."""


def model_class(head: str) -> Any:
    """The transformers class that builds any family with a named head; raises ValueError for an unknown head."""
    if head not in _HEADS:
        raise UserError(f"head is {head!r}; choices: {', '.join(sorted(_HEADS))}")
    return _HEADS[head]


def types_with(head: str) -> dict[str, str]:
    """Name of the transformers class with a named head, by the model type that it is of."""
    return dict(getattr(modeling_auto, f"MODEL_FOR_{head.upper()}_MAPPING_NAMES"))


def has_head(model_type: str, head: str) -> bool:
    """Whether transformers has a class for models of a type with a named head."""
    return model_type in types_with(head)


def head_of(model: nn.Module) -> str:
    """The name of a transformers model's head; raises ValueError for a model without any that is supported."""
    found = _head_of_class(type(model).__name__)
    if found is not None:
        return found
    raise UserError(f"{type(model).__name__} has no supported head; choices: {', '.join(sorted(_HEADS))}")


def stored_head(config: Any) -> str:
    """The name of the head that a checkpoint was saved with; raises ValueError where its configuration names none."""
    named = (config.architectures or ["none"])[0]
    found = _head_of_class(named)
    if found is not None:
        return found
    raise UserError(f"the checkpoint is a {named}, which has no supported head; choices: {', '.join(sorted(_HEADS))}")


@cache
def _head_of_class(name: str) -> str | None:
    return next((head for head in _HEADS if name in types_with(head).values()), None)
