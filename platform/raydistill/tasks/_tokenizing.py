"""What every task asks of a tokenizer before it encodes: its plain form, the longest row, and what fills short ones."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers.tokenization_utils_base import LARGE_INTEGER

from raydistill.user_error import UserError

FILLERS = ("pad", "unk", "eos")
"""Roles of tokens that may fill short rows; the first that a tokenizer has does."""


def plain_backend(tokenizer: Any) -> Any:
    """The fast tokenizer without the padding and truncation that its files ask for."""
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    backend.encode_special_tokens = tokenizer.split_special_tokens
    return backend


def length_limit(tokenizer: Any, max_length: int | None) -> int:
    """Longest row, the tokenizer's limit for None; raises ValueError when it has none either."""
    limit = max_length or int(tokenizer.model_max_length)
    if limit >= LARGE_INTEGER:
        raise UserError("max_length is null and the tokenizer has no limit; give encoding.max_length")
    return limit


def role_ids(tokenizer: Any, roles: Sequence[str] = FILLERS) -> dict[str, int]:
    """Ids of the roles for which a tokenizer has a token."""
    found = {role: getattr(tokenizer, f"{role}_token_id", None) for role in roles}
    return {role: int(token) for role, token in found.items() if token is not None}


def filler_id(ids: Mapping[str, int]) -> int:
    """Id that fills short rows, of the ids of a tokenizer's roles; 0 where it has none of ``FILLERS``."""
    return next((ids[role] for role in FILLERS if role in ids), 0)


def check_filler(tokenizer: Any) -> None:
    """Raise ValueError when a tokenizer has no token that could fill short rows."""
    if not role_ids(tokenizer):
        raise UserError("the tokenizer has no pad, unk or eos token; rows could not be filled")
