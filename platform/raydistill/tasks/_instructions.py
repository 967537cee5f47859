"""Prompts with completions, and messages, as rows of tokens whose loss is on what the model is to say.

A row keeps where its completions stand: ``loss_spans``, the first place of each and the one after its last, in turn.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers.utils.chat_template_utils import render_jinja_template

from raydistill.batch import Batch
from raydistill.tasks._base import (
    COMPLETION_CUT,
    LONG_COMPLETION,
    LONG_PROMPT,
    LONG_ROW,
    PROMPT_CUT,
    Column,
    LabelledRow,
)
from raydistill.tasks._text_rows import Ends, Row, encode_texts
from raydistill.tasks._tokenizing import plain_backend
from raydistill.user_error import UserError, said

LOSS_SPANS = "loss_spans"
COLUMNS = {LOSS_SPANS: Column("int32", per="list")}
ROLES = ("system", "developer", "user", "assistant", "tool")
"""Who may speak; templates know them or say that they do not."""
_SHOWN = 40

Spans = NDArray[np.int64]
"""(n, 2): the first place of each completion, and the one after its last."""
Message = Mapping[str, Any]


def rows_of(
    examples: Sequence[Mapping[str, Any]], tokenizer: Any, ends: Ends, *, limit: int, too_long: str
) -> list[LabelledRow]:
    """One row an example, of at most ``limit`` tokens where it is kept, int64; ``too_long`` as ``clm.EncodeConfig``.

    A prompt and its completion are encoded each by itself and as they stand, ``bos prompt completion eos``, so that the
    prompt's ids are those of a prompt alone; the loss is on the completion and eos. Messages are what the tokenizer's
    chat template makes of them, and the loss is on what it marks by ``{% generation %}``; without such marks on what
    each assistant's message adds to the messages before it and the template's own beginning of an answer. Raises
    ValueError for an example of another kind, for an unknown role, for an empty completion, and for a template that is
    missing or writes messages otherwise once others follow them.
    """
    chats = [list(_messages(one)) for one in examples if "messages" in one]
    of_chats = iter(_of_chats(chats, tokenizer, ends)) if chats else iter(())
    of_prompts = iter(_of_prompts([one for one in examples if "messages" not in one], tokenizer, ends))
    pairs = (next(of_chats if "messages" in one else of_prompts) for one in examples)
    return [_fitted(ids, spans, limit, too_long, ends.first) for ids, spans in pairs]


def with_loss(batch: Batch, prefix: str = "") -> NDArray[np.bool_]:
    """Which tokens (B, T) of a batch are of completions, from its columns ``loss_spans``."""
    spans = batch[prefix + LOSS_SPANS].numpy().reshape(-1, 2)
    rows, width = batch[prefix + "input_ids"].shape
    row_of = np.repeat(np.arange(rows), batch[f"{prefix}{LOSS_SPANS}_lengths"].numpy() // 2)
    edges = np.zeros((rows, width + 1), dtype=np.int8)
    # Two completions may meet.
    np.add.at(edges, (row_of, spans[:, 0]), 1)
    np.add.at(edges, (row_of, spans[:, 1]), -1)
    found: NDArray[np.bool_] = np.cumsum(edges, axis=1)[:, :width] > 0
    return found


def _fitted(ids: Row, spans: Spans, limit: int, too_long: str, first: int) -> LabelledRow:
    """A row cut by the rule, or with the reason why it is left out."""
    excess, fate = len(ids) - limit, None
    if excess > 0 and too_long == "drop":
        fate = LONG_ROW
    elif excess > 0 and too_long == "cut_completion_right":
        ids, spans = ids[:limit], _clipped(spans, 0, limit)
        fate = COMPLETION_CUT if len(spans) else LONG_PROMPT
    elif excess > 0:
        kept = int(ids[0] == first)
        ids = np.concatenate([ids[:kept], ids[kept + excess :]])
        # Without a token of what it answers a completion teaches nothing.
        fate = PROMPT_CUT if spans[-1, 0] - excess > kept else LONG_COMPLETION
        spans = _clipped(spans - excess, kept, limit)
    return LabelledRow(ids, {LOSS_SPANS: spans.reshape(-1)}, fate)


def _clipped(spans: Spans, first: int, stop: int) -> Spans:
    spans = spans.clip(first, stop)
    return spans[spans[:, 0] < spans[:, 1]]


def _of_prompts(examples: Sequence[Mapping[str, Any]], tokenizer: Any, ends: Ends) -> Iterator[tuple[Row, Spans]]:
    texts = [text for one in examples for text in _prompt(one)]
    encoded = list(encode_texts(texts, tokenizer, ends))
    for prompt, completion in zip(encoded[::2], encoded[1::2], strict=True):
        ids = np.concatenate([prompt[:-1], completion[1:]])
        yield ids, np.array([[len(prompt) - 1, len(ids)]])


def _prompt(example: Mapping[str, Any]) -> tuple[str, str]:
    for role in ("prompt", "completion"):
        if role not in example:
            known = ", ".join(example) or "no key"
            raise UserError(f"an example has {known}; for instructions, give prompt and completion, or messages")
        if not isinstance(example[role], str):
            raise UserError(f"{role} is {_short(example[role])}, which is not text")
    if not example["completion"].strip():
        raise UserError("completion is empty, so there is nothing to learn; leave the example out, or fill it in")
    return example["prompt"], example["completion"]


def _messages(example: Mapping[str, Any]) -> Iterator[Message]:
    """The checked messages of an example, without the keys that have no value."""
    messages = example["messages"]
    if "prompt" in example or "completion" in example:
        raise UserError("an example has messages beside prompt or completion; give one of the two")
    if not isinstance(messages, list) or not all(isinstance(one, Mapping) for one in messages):
        raise UserError(f"messages is {_short(messages)}, which is not a list of {{role, content}}")
    if not any(one.get("role") == "assistant" for one in messages):
        raise UserError("messages has none of the role 'assistant', so there is nothing to learn; leave it out")
    for number, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise UserError(f"messages.{number} has the role {_short(role)}; choices: {', '.join(ROLES)}")
        if not isinstance(content, str) and not message.get("tool_calls"):
            raise UserError(f"messages.{number} has the content {_short(content)}, which is not text")
        if role == "assistant" and not (content or "").strip() and not message.get("tool_calls"):
            raise UserError(f"messages.{number} is an empty completion; leave it out, or fill it in")
        yield {key: value for key, value in message.items() if value is not None}


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."


def _of_chats(chats: Sequence[Sequence[Message]], tokenizer: Any, ends: Ends) -> Iterator[tuple[Row, Spans]]:
    if not tokenizer.chat_template:
        raise UserError(
            "the tokenizer has no chat template to write messages with; name that of a chat model, or give prompt and "
            "completion"
        )
    try:
        write = _Template(tokenizer, tokenizer.get_chat_template())
    except ValueError as error:
        raise UserError(f"the tokenizer has no chat template to choose ({said(error)}); leave one") from None
    if write.marks_answers:
        for chat in chats:
            yield _marked(chat, write)
        return
    pieces = [_pieces(chat, write) for chat in chats]
    encoded = encode_texts([text for of_chat in pieces for text in of_chat], tokenizer, ends)
    for of_chat in pieces:
        whole, *prefixes = (next(encoded)[1:-1] for _ in of_chat)
        spans = [_turn(whole, *pair, tokenizer) for pair in zip(prefixes[::2], prefixes[1::2], strict=True)]
        yield whole, np.array(spans)


class _Template:
    """A tokenizer's chat template."""

    def __init__(self, tokenizer: Any, text: str) -> None:
        self.tokenizer = tokenizer
        self._text = text
        self.marks_answers = any(part.strip(" -\n").startswith("generation") for part in text.split("{%")[1:])
        """Whether it says by itself what the assistant says."""

    def __call__(self, chat: Sequence[Message], *, answers: bool = False, marks: bool = False) -> tuple[str, Any]:
        """The text of messages, with the beginning of an ``answer``, and with ``marks`` where completions stand in it.

        Raises ValueError for messages that it does not take.
        """
        try:
            texts, marked = render_jinja_template(
                conversations=[list(chat)],
                chat_template=self._text,
                return_assistant_tokens_mask=marks,
                add_generation_prompt=answers,
                **self.tokenizer.special_tokens_map,
            )
        except Exception as error:
            # Whatever a template raises over messages.
            raise UserError(f"the tokenizer's chat template does not take the messages ({said(error)})") from None
        return texts[0], marked[0] if marks else []


def _pieces(chat: Sequence[Message], write: _Template) -> list[str]:
    """The text of all messages; then for each of the assistant's the text up to its completion, and up to its end."""
    places = [number for number, one in enumerate(chat) if one["role"] == "assistant"]
    found = [write(chat)[0]]
    for place in places:
        found.append(write(chat[:place], answers=True)[0])
        found.append(found[0] if place == len(chat) - 1 else write(chat[: place + 1])[0])
    return found


def _turn(whole: Row, before: Row, until: Row, tokenizer: Any) -> tuple[int, int]:
    """Where a completion stands in a row, given the ids up to it, and those of the messages up to its end alone.

    It ends with the token that ends the turn; what white space follows that is no part of it. Templates of thinking
    models write the last message otherwise than the same one in the middle, but end both with one token.
    """
    start, stop = len(before), len(until)
    while stop > start and tokenizer.decode([until[stop - 1]]).isspace():
        stop -= 1
    is_closed = stop > start and until[stop - 1] in tokenizer.all_special_ids
    if start < len(until) and _begins(whole, before):
        if _begins(whole, until):
            return start, stop if is_closed else len(until)
        if is_closed and _begins(until, before) and until[stop - 1] in whole[start:]:
            return start, start + int(np.argmax(whole[start:] == until[stop - 1])) + 1
    raise UserError(
        "the tokenizer's chat template writes messages differently once others follow them, so that completions are "
        "not found; mark them in the template by {% generation %}, or give prompt and completion"
    )


def _begins(whole: Row, part: Row) -> bool:
    return bool(np.array_equal(whole[: len(part)], part))


def _marked(chat: Sequence[Message], write: _Template) -> tuple[Row, Spans]:
    """A row of messages, and what the template marks in it."""
    text, marks = write(chat, marks=True)
    encoding = plain_backend(write.tokenizer).encode(text, add_special_tokens=False)
    offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    loss = np.zeros(len(offsets) + 2, dtype=np.int8)
    for start, stop in marks:
        loss[1:-1] |= (offsets[:, 0] < stop) & (offsets[:, 1] > start)
    edges = np.flatnonzero(np.diff(loss))
    if not len(edges):
        raise UserError("the tokenizer's chat template marks no completion by {% generation %}; fix it")
    return np.array(encoding.ids, dtype=np.int64), edges.reshape(-1, 2)
