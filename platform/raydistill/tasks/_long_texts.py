"""Texts of any length through a tokenizer in bounded memory: cut where its ids do not change, and in small batches.

A tokenizer takes about sixty bytes for each character of what it is given at once. What remains is about six: the text,
its ids, and the rows that these are cut into. All rows of a text are of one block, by whose number a run that was
interrupted goes on, so they are there together.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

from raydistill.user_error import UserError

_PIECE_CHARACTERS = 100_000
"""A longer text is cut into pieces of a little more."""
LONGEST_WHOLE = 2_000_000
"""Most characters that are tokenized at once where a text cannot be cut."""
_BATCH_CHARACTERS = 1_000_000
_BETWEEN_WORDS = re.compile(r"(?<=\w)\s(?=\w)")
_SPACE = re.compile(r"\s")
_TRIED = 32
_WINDOWS = (199, 200)
"""Characters on each side of a place in which both ways are compared; two, so that no period of a text divides both."""


def encodings(texts: Iterable[str], backend: Any, *, with_offsets: bool = False) -> Iterator[Any]:
    """The encodings of texts without special tokens, batch by batch; without offsets, which take time, by default."""
    encode = backend.encode_batch if with_offsets else backend.encode_batch_fast
    for batch in batches(texts):
        yield from encode(batch, add_special_tokens=False)


def batches(texts: Iterable[Any]) -> Iterator[list[Any]]:
    """Texts, or lists of words, in their order; a batch has at most a million characters, or a single one of them."""
    batch, size = list[Any](), 0
    for text in texts:
        own = len(text) if isinstance(text, str) else sum(map(len, text))
        if batch and size + own > _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += own
    if batch:
        yield batch


def is_long(text: str) -> bool:
    """Whether ``pieces`` may cut a text."""
    return len(text) > _PIECE_CHARACTERS


def head(text: str, backend: Any, *, num_tokens: int) -> str:
    """A text, or a start of it whose ids are the first ones of the text's own, at least so many.

    Raises ValueError for a text that is too long to be tokenized whole and cannot be cut.
    """
    found, stop = 0, 0
    while len(text) - stop > _PIECE_CHARACTERS:
        last, begin = _cut(text, stop, backend)
        found += len(backend.encode(text[stop:last], add_special_tokens=False))
        if found >= num_tokens:
            return text[:last]
        stop = begin
    return text


def pieces(text: str, backend: Any) -> Iterator[str]:
    """Pieces of a text whose ids, one after the other, are the text's own; a short text is a single one.

    Raises ValueError as ``head`` does.
    """
    start = 0
    while len(text) - start > _PIECE_CHARACTERS:
        stop, begin = _cut(text, start, backend)
        if stop == len(text):
            break
        yield text[start:stop]
        start = begin
    yield text[start:]


def first_words(words: Sequence[str], backend: Any, *, num_tokens: int) -> Sequence[str]:
    """The first words, at least as many as make so many tokens, or all; each is tokenized by itself."""
    if sum(map(len, words)) <= _PIECE_CHARACTERS and len(words) <= _PIECE_CHARACTERS // 10:
        return words
    found = 0
    for place, word in enumerate(words):
        if found >= num_tokens:
            return words[:place]
        found += len(backend.encode([word], is_pretokenized=True, add_special_tokens=False))
    return words


def _cut(text: str, start: int, backend: Any) -> tuple[int, int]:
    """Where a piece from ``start`` on ends, and where the next one begins, one white space later or at once."""
    target = start + _PIECE_CHARACTERS
    between, space = (
        islice((found.start() for found in kind.finditer(text, target, target + _PIECE_CHARACTERS)), _TRIED)
        for kind in (_BETWEEN_WORDS, _SPACE)
    )
    for place in chain(between, space, range(target, target + _TRIED)):
        # Some tokenizers take a space for a part of the word after it, others put one there by themselves.
        for begin in (place, place + 1) if text[place : place + 1].isspace() else (place,):
            if all(_is_same(text, place, begin, width, backend) for width in _WINDOWS):
                return place, begin
    if len(text) - start > LONGEST_WHOLE:
        raise UserError(
            f"a text of {len(text)} characters has no white space near character {target} and cannot be cut there for "
            f"the tokenizer, which takes at most {LONGEST_WHOLE} at once; split it into lines, or leave it out"
        )
    return len(text), len(text)


def _is_same(text: str, stop: int, begin: int, width: int, backend: Any) -> bool:
    """Whether the ids around a place are those of what is before and after it."""

    def ids(part: str) -> list[int]:
        found: list[int] = backend.encode(part, add_special_tokens=False).ids
        return found

    first, last = max(0, stop - width), begin + width
    return ids(text[first:last]) == ids(text[first:stop]) + ids(text[begin:last])
