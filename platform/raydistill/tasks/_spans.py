"""Questions and contexts to windows of tokens, where the answer stands in each, and the best answer that a window has.

Source: the question-answering examples of transformers.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Window(NamedTuple):
    """A question and a piece of its context as one row."""

    ids: Ints
    """(R,)"""
    second: int
    """Position of the context's first token; the row's length where there is none."""
    starts: Ints
    """(R,) first character of each token in the context; -1 for tokens of the question and special ones."""
    ends: Ints
    """(R,) the character after the last one of each token; -1 likewise."""


def windows(question: Any, context: Any, backend: Any, *, limit: int, stride: int) -> Iterator[Window]:
    """Rows ``[CLS] question [SEP] piece [SEP]`` of at most ``limit`` tokens; pieces share ``stride`` tokens.

    ``question``, ``context``: encodings without special tokens, which are cut here. Deviation: a question is cut where
    it leaves no room for ``stride + 1`` tokens of the context; published code fails then.
    """
    room = limit - backend.num_special_tokens_to_add(True)
    question.truncate(max(0, room - stride - 1))
    context.truncate(room - len(question), stride=stride)
    # One by one, for what is cut off the question would come back in windows of its own.
    for piece in [context, *context.overflowing]:
        encoding = backend.post_process(question, piece, True)
        in_context = np.array([place == 1 for place in encoding.sequence_ids])
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        offsets[~in_context] = -1
        ids = np.array(encoding.ids, dtype=np.int64)
        second = int(in_context.argmax()) if in_context.any() else len(ids)
        yield Window(ids, second, offsets[:, 0], offsets[:, 1])


def answer_place(window: Window, start: int, stop: int) -> tuple[int, int]:
    """First and last token of the answer in characters ``start`` to ``stop - 1`` of the context.

    Both are 0, the first token of the row, for an answer that is not wholly in the window.
    """
    places = np.flatnonzero(window.starts >= 0)
    if not len(places):
        return 0, 0
    starts, ends = window.starts[places], window.ends[places]
    if not (starts[0] <= start and stop <= ends[-1]):
        return 0, 0
    first = int(np.searchsorted(starts, start, side="right")) - 1
    last = int(np.searchsorted(ends, stop, side="left"))
    return int(places[first]), int(places[last])


class Span(NamedTuple):
    """Tokens ``first`` to ``last`` of a row, and the sum of their logits."""

    first: int
    last: int
    score: float


def best_span(
    first_logits: NDArray[np.float64],
    last_logits: NDArray[np.float64],
    in_context: NDArray[np.bool_],
    *,
    n_best: int,
    max_length: int,
) -> Span | None:
    """The likeliest answer among pairs of the ``n_best`` first and last tokens; None where no pair is an answer.

    Shapes: (R,) each. An answer is in the context, does not end before it starts, and has at most ``max_length``
    tokens.
    """
    firsts, lasts = (np.argsort(-logits, kind="stable")[:n_best] for logits in (first_logits, last_logits))
    lengths = lasts[None, :] - firsts[:, None] + 1
    is_answer = (lengths >= 1) & (lengths <= max_length) & in_context[firsts][:, None] & in_context[lasts][None, :]
    if not is_answer.any():
        return None
    scores = np.where(is_answer, first_logits[firsts][:, None] + last_logits[lasts][None, :], -np.inf)
    row, column = np.unravel_index(scores.argmax(), scores.shape)
    return Span(int(firsts[row]), int(lasts[column]), float(scores[row, column]))
