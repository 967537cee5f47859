"""Padding of classifiers of texts in plain transformers: what makes it answer of padded rows as of each row alone."""

from typing import Any

from raydistill.models.blocks import family_of
from raydistill.user_error import UserError

_HEAD = "sequence_classification"
LEFT, RIGHT = "left", "right"
"""Values of a tokenizer's ``padding_side``."""


def write_padding(config: Any, tokenizer: Any, *, head: str) -> None:
    """Let a student's configuration and its tokenizer, which are saved together, agree on padding.

    A classifier of texts gets a tokenizer that pads on the right and, if it is a decoder and the tokenizer has a
    padding token, that token's id: transformers refuses batches of a decoder without one, and with another one it
    pools padding. Nothing changes for other heads. To be called before the student is trained, since the id decides
    which token of a row is pooled.
    """
    if head != _HEAD:
        return
    tokenizer.padding_side = RIGHT
    # Saved is what a tokenizer was made with, and some classes, such as Llama's, pad on the left by themselves.
    tokenizer.init_kwargs["padding_side"] = RIGHT
    # Encoders do not pool by it, and RoBERTa counts positions from it.
    if family_of(config).vocabulary_head(config) == "causal_lm" and tokenizer.pad_token_id is not None:
        config.pad_token_id = tokenizer.pad_token_id


def check_padding_side(key: str, config: Any, side: str, *, head: str) -> None:
    """Raise ValueError for a model under ``key`` that transformers reads otherwise where its tokenizer pads.

    With padding on the left it counts positions from the first padding token, and takes that for an encoder's first
    token; only a decoder that sees distances alone classifies such a row as it does without padding.
    """
    if head == _HEAD and side == LEFT and not family_of(config).RELATIVE:
        raise UserError(
            f"{key} is a {config.model_type} whose tokenizer pads on the left, so that in transformers its answers "
            'depend on the padding; write "padding_side": "right" in its tokenizer_config.json'
        )
