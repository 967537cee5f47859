"""What every task asks of a tokenizer before it encodes: its plain form, and the longest row."""

from typing import Any

from transformers.tokenization_utils_base import LARGE_INTEGER

from raydistill.user_error import UserError


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


def check_filler(tokenizer: Any) -> None:
    """Raise ValueError when a tokenizer has no token that could fill short rows."""
    if tokenizer.pad_token_id is None and tokenizer.unk_token_id is None and tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no pad, unk or eos token; rows could not be filled")
