"""Questions on texts as SQuAD has them: checked, and left out where the first answer is not at its place."""

from collections.abc import Mapping
from typing import Any

from raydistill.data.sources._base import DROPPED, Example
from raydistill.user_error import UserError


def question_example(values: Mapping[str, Any]) -> Example:
    """The example of a question, a context, maybe ``answers`` and an ``id``.

    Answers without a text are left out. Raises ValueError for what is no text and for answers of another form.
    """
    for role in ("question", "context"):
        if not isinstance(values[role], str):
            raise UserError(f"has {values[role]!r} as {role}, which is not text")
    if "answers" not in values:
        return dict(values)
    texts, starts = _answers(values["answers"])
    if texts and not (starts[0] >= 0 and values["context"].startswith(texts[0], starts[0])):
        return {DROPPED: "misplaced answer"}
    return {**values, "answers": {"text": texts, "answer_start": starts}}


def _answers(raw: Any) -> tuple[list[str], list[int]]:
    """Texts and their first characters, of a mapping of lists or a list of mappings."""
    answers = [] if raw is None else raw
    try:
        if isinstance(answers, Mapping):
            pairs = list(zip(answers["text"], answers["answer_start"], strict=True))
        else:
            pairs = [(answer["text"], answer["answer_start"]) for answer in answers]
        found = [(str(text), int(start)) for text, start in pairs if text]
    except (KeyError, TypeError, ValueError):
        raise UserError(f"has the answers {raw!r}; each has a text and an answer_start") from None
    return [text for text, _ in found], [start for _, start in found]
