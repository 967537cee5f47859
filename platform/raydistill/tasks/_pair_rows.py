"""Single texts and pairs of texts to one row of token ids each, cut to a length from the longer text's end."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from raydistill.tasks._long_texts import encodings, head
from raydistill.tasks._tokenizing import length_limit, plain_backend
from raydistill.user_error import UserError


class PairRow(NamedTuple):
    """Token ids of an example and where its second text starts."""

    ids: NDArray[np.int64]
    second: int
    """Position of the second text's first token; the row's length where there is no second text. Negative where the
    token types are the published ones, of ``legacy_segments``."""


def encode_pairs(
    examples: Sequence[Mapping[str, Any]], tokenizer: Any, *, max_length: int | None, legacy_segments: bool = False
) -> list[PairRow]:
    """One row an example with the tokenizer's own special tokens, such as ``[CLS] a [SEP] b [SEP]``.

    An example has ``text``, or ``words``, and may have ``text_pair``. Longer rows lose tokens from the end of the
    longer text, of the second at a tie, as published. ``legacy_segments``: see ``token_types``; and an empty second
    text is none, so that the row has no second separator. Raises ValueError for an example without a text.
    """
    limit = length_limit(tokenizer, max_length)
    backend = plain_backend(tokenizer)
    pairs = [example.get("text_pair") for example in examples]
    if legacy_segments:
        pairs = [pair or None for pair in pairs]
    # Of more tokens than a row has room for it does not matter how many they are.
    firsts, seconds = (
        encodings((head(text, backend, num_tokens=limit) for text in texts), backend)
        for texts in ([_text(example) for example in examples], [pair for pair in pairs if pair is not None])
    )
    # Special tokens after the second text, which may itself have no token.
    ends = backend.encode("a", "a").sequence_ids[::-1].index(1) if len(pairs) > pairs.count(None) else 0
    rows = [
        _row(first, None if pair is None else next(seconds), backend, limit, ends)
        for first, pair in zip(firsts, pairs, strict=True)
    ]
    if not legacy_segments:
        return rows
    return [row if pair is None else row._replace(second=-row.second) for row, pair in zip(rows, pairs, strict=True)]


def token_types(token_index: Tensor, second: Tensor, lengths: Tensor, *, width: int) -> Tensor:
    """0 in the first text and 1 in the second, (R,) int64, of the tokens at flat places (R,) of rows padded to a width.

    ``second`` (B,) are the positions where the rows' second texts start, ``lengths`` (B,) the rows' tokens. Where
    ``second`` is negative the ones stand two places early, from the first text's last token to two before the row's
    end: so the published code of StarK (GeneZC/StarK @ ac1e8d1) wrote them, and its checkpoints have learned it.
    """
    row = token_index.div(width, rounding_mode="floor")
    early = 2 * (second < 0)
    starts, ends = second.abs() - early, lengths - early
    position = token_index - row * width
    return ((position >= starts[row]) & (position < ends[row])).long()


def _text(example: Mapping[str, Any]) -> str:
    if "text" in example:
        return str(example["text"])
    if "words" in example:
        return " ".join(example["words"])
    raise UserError(f"an example has {', '.join(example) or 'no key'}; this task reads text, with text_pair or without")


def _row(first: Any, second: Any, backend: Any, limit: int, ends: int) -> PairRow:
    room = limit - backend.num_special_tokens_to_add(second is not None)
    keep_first, keep_second = _kept(len(first), 0 if second is None else len(second), room)
    first.truncate(keep_first)
    if second is None:
        ids = backend.post_process(first, None, True).ids
        return PairRow(np.array(ids, dtype=np.int64), len(ids))
    second.truncate(keep_second)
    encoding = backend.post_process(first, second, True)
    return PairRow(np.array(encoding.ids, dtype=np.int64), len(encoding) - keep_second - ends)


def _kept(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of each text are kept when tokens go one by one from the longer, from the second at a tie."""
    excess = max(0, first + second - room)
    from_longer = min(excess, abs(first - second))
    if first > second:
        first -= from_longer
    else:
        second -= from_longer
    rest = excess - from_longer
    return first - rest // 2, second - (rest - rest // 2)
