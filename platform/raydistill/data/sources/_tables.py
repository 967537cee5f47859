"""Columns of tables with a schema by what they mean, and the examples that rows make.

A schema may hold the features of a Hugging Face data set, in memory or in a Parquet file that one was saved to; class
ids become names through them.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from raydistill.data.sources import _labels
from raydistill.data.sources._base import DROPPED, Example, Placed, Where
from raydistill.data.sources._labels import ClassName, Label, RawLabel, Scores
from raydistill.data.sources._questions import question_example
from raydistill.options import LATER
from raydistill.user_error import UserError

_KINDS = (
    ("text", "text_pair", "label"),
    ("words", "tags"),
    ("question", "context", "answers", "id"),
    ("prompt", "completion"),
    ("messages",),
)
_OF_STRINGS = ("text", "text_pair", "question", "context", "id", "prompt", "completion")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns mean what.

    A text or a pair with its label, words with their tags, a question with answers, a prompt with its completion, or
    messages.
    """

    text: str | None = None
    """The column of the text; ``text`` if no other kind of column is named."""
    text_pair: str | None = None
    """The column of the second text of a pair."""
    label: Label | None = None
    """The column of the label; or ``{column, threshold, names}``, which makes classes of a number."""
    labels: dict[RawLabel, ClassName | None] | None = None
    """The name of the class for each raw label or tag; if the data set names its ids, for each of those names. Examples
    with a label whose class is null are dropped and counted."""
    words: str | None = None
    """Instead of ``text``: the column of lists of words."""
    tags: str | None = None
    """The column with a tag for each of the words."""
    question: str | None = None
    """Instead of ``text``: the column of questions."""
    context: str | None = None
    """The column of the texts that hold the answers."""
    answers: str | None = None
    """The column of ``{text: [...], answer_start: [...]}``, both empty for a question without an answer."""
    id: str | None = None
    """The column of what identifies a question."""
    prompt: str | None = field(default=None, metadata=LATER)
    """Instead of ``text``: the column of prompts."""
    completion: str | None = field(default=None, metadata=LATER)
    """The column of what is to follow each prompt."""
    messages: str | None = field(default=None, metadata=LATER)
    """Instead of ``text``: the column of lists of messages, each with ``role`` and ``content``."""

    def __post_init__(self) -> None:
        kinds = [[role for role in kind if getattr(self, role) is not None] for kind in _KINDS]
        used = [kind[0] for kind in kinds if kind]
        if len(used) > 1:
            raise UserError(f"{' and '.join(used)} belong to different kinds of examples; name the columns of one kind")
        for first, others in (("words", ("tags",)), ("question", ("context", "answers", "id"))):
            given = [role for role in others if getattr(self, role) is not None]
            if given and getattr(self, first) is None:
                raise UserError(f"{given[0]} is {getattr(self, given[0])!r}, but {first} is missing; name its column")
        if self.question is not None and self.context is None:
            raise UserError(f"question is {self.question!r}, but context is missing; name its column")
        check_prompts(self.prompt, self.completion)
        if self.labels is not None and self.tags is None and (self.label is None or isinstance(self.label, Scores)):
            raise UserError("labels names the raw values of a column; give that column as label, or as tags")
        if self.label is not None and not isinstance(self.columns()["label"], str):
            raise UserError(f"label is {self.columns()['label']!r}; columns of tables are given by name")

    def columns(self) -> dict[str, str]:
        """The columns that are read, by what they mean."""
        values = {role: getattr(self, role) for kind in _KINDS for role in kind}
        if not (self.words or self.question or self.prompt or self.messages):
            values["text"] = self.text or "text"
        if isinstance(self.label, Scores):
            values["label"] = self.label.column
        return {role: column for role, column in values.items() if column is not None}


def check_prompts(prompt: Any, completion: Any) -> None:
    """Raise ValueError where one of both columns is named alone."""
    for own, column, other, missing in (
        ("prompt", prompt, "completion", completion),
        ("completion", completion, "prompt", prompt),
    ):
        if column is not None and missing is None:
            raise UserError(f"{own} is {column!r}, but {other} is missing; name its column")


def check_schema(columns: Columns, schema: pa.Schema, place: str) -> None:
    """Raise ValueError for a column that a table does not have, or one of texts that holds none."""
    for role, column in columns.columns().items():
        if column not in schema.names:
            choices = ", ".join(schema.names)
            raise UserError(f"{role} is {column!r}, which {place} does not have; choices: {choices}")
        if schema.names.count(column) > 1:
            raise UserError(f"{role} is {column!r}, a name that {schema.names.count(column)} columns of {place} have")
        kind = schema.field(column).type
        values = kind.value_type if pa.types.is_dictionary(kind) else kind
        if role in _OF_STRINGS and not (pa.types.is_string(values) or pa.types.is_large_string(values)):
            raise UserError(f"{role} is {column!r}, which holds {kind} in {place}; give one of strings")
        if role == "messages" and not _has_messages(kind):
            raise UserError(f"{role} is {column!r}, which holds {kind} in {place}; give lists of {{role, content}}")


def _has_messages(kind: pa.DataType) -> bool:
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_struct(kind.value_type):
        return False
    return {"role", "content"} <= {field.name for field in kind.value_type.fields}


def class_names(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """The names of classes in the order of their ids, by column, where the features of a data set tell them."""
    content = (schema.metadata or {}).get(b"huggingface")
    features = json.loads(content).get("info", {}).get("features", {}) if content else {}
    found = {}
    for column, feature in features.items():
        inner = feature.get("feature", feature) if isinstance(feature, dict) else feature
        if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" and inner.get("names"):
            found[column] = tuple(map(str, inner["names"]))
    return found


def rows_of(columns: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """The rows of a table that is given by its columns."""
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def examples(
    columns: Columns, names: Mapping[str, Sequence[str]], rows: Iterable[Mapping[str, Any]], *, place: str, start: int
) -> Iterator[Example]:
    """The examples in rows of ``place``, the first of which has the number ``start``.

    ``names`` has those of the class ids of a column, as ``class_names`` gives them. Class ids below 0 and missing
    labels mean an example without a label, which is dropped and counted. Raises ValueError, naming place and row, for
    a value that is not what its column means.
    """
    roles = columns.columns()
    for number, row in enumerate(rows, start):
        try:
            example = _example(columns, {role: row[column] for role, column in roles.items()}, names)
        except UserError as error:
            raise UserError(f"{place} row {number} {error}") from None
        yield Placed(example, Where(place, "row", number))


def _example(columns: Columns, values: dict[str, Any], names: Mapping[str, Sequence[str]]) -> Example:
    if "words" in values:
        return _tagged(columns, values, names.get(columns.tags or "", ()))
    if "question" in values:
        return question_example(values)
    if "label" in values and not isinstance(columns.label, Scores):
        values["label"] = _named(values["label"], names.get(str(columns.label), ()))
    if "label" in values and values["label"] is None:
        return {DROPPED: "no label"}
    return text_example(values, columns.label, columns.labels)


def text_example(
    values: Mapping[str, Any], label: Label | None, labels: Mapping[RawLabel, str | None] | None
) -> Example:
    """The example of a text or a pair, and of a raw label where there is one; of a prompt, or of messages as they are.

    Raises ValueError for a text that is none and a label that has no name.
    """
    if "messages" in values:
        return {"messages": values["messages"]}
    texts = {role: value for role, value in values.items() if role != "label"}
    for role, value in texts.items():
        if not isinstance(value, str | None):
            raise UserError(f"has {value!r} as {role}, which is not text")
    if not any(value and value.strip() for value in texts.values()):
        return {DROPPED: "no text"}
    example = {role: value or "" for role, value in texts.items()}
    if "label" not in values:
        return example
    name = _class(values["label"], label, labels)
    return {DROPPED: "no label"} if name is None else {**example, "label": name}


def _class(raw: Any, label: Label | None, labels: Mapping[RawLabel, str | None] | None) -> str | int | float | None:
    if isinstance(label, Scores):
        return _labels.class_of_score(label, raw)
    return _labels.plain_label(raw) if labels is None else _labels.class_of_name(labels, raw)


def _named(raw: Any, names: Sequence[str]) -> Any:
    """A class id's name, None for an id below 0; anything else as it is."""
    if not names or not isinstance(raw, int):
        return raw
    if raw >= len(names):
        raise UserError(f"has the class id {raw}, but the data set names only {', '.join(names)}")
    return names[raw] if raw >= 0 else None


def _tagged(columns: Columns, values: Mapping[str, Any], names: Sequence[str]) -> Example:
    words = values["words"]
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UserError(f"has {words!r} as words, which is not a list of texts")
    if not words:
        return {DROPPED: "no text"}
    if "tags" not in values:
        return {"words": words}
    tags = values["tags"]
    if not isinstance(tags, list) or len(tags) != len(words):
        problem = f"{len(tags)} tags" if isinstance(tags, list) else f"the tags {tags!r}"
        raise UserError(f"has {len(words)} words and {problem}; give a tag for each word")
    labels = [_class(_named(tag, names), None, columns.labels) for tag in tags]
    return {DROPPED: "no label"} if None in labels else {"words": words, "labels": list(map(str, labels))}
