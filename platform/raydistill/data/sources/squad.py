"""Questions about texts, with answers that are pieces of these, from files of SQuAD's form."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from raydistill.data.sources import _files
from raydistill.data.sources._base import Example, Item, Placed, Where
from raydistill.data.sources._questions import question_example
from raydistill.data.sources._reading import json_value
from raydistill.user_error import UserError


@dataclass(frozen=True)
class Config(_files.FileSet):
    """Which files.

    JSON of SQuAD's nested form, version 1.1 or 2.0; JSON whose ``data`` is a list of questions, each with its own
    ``context``; or such questions one a line. Answers are lists of ``text`` with ``answer_start``, or of both; a
    question has them, be they none, unless it is impossible.
    """


def is_listed_early(config: Config) -> bool:
    """Files are listed in the preflight already."""
    return True


def items(config: Config) -> list[Item]:
    """The files in the order of their names; raises ValueError when there are none."""
    return _files.list_items(config)


def read(config: Config, item: Item) -> Iterator[Example]:
    """The questions of one file as ``id``, ``question``, ``context`` and ``answers`` (``text`` and ``answer_start``).

    Those whose first answer is not where it should be are left out. Raises ValueError, naming file and place, for a
    file of another form and for a question that does not say whether it has answers.
    """
    with _files.open_item(config, item) as stream:
        content = stream.read()
    for place, entry in _entries(_parsed(content, item.name), item.name):
        yield Placed(_example(entry, f"{item.name} {place}"), Where(item.name, place))


def _parsed(content: bytes, name: str) -> Any:
    """What a file's JSON says, a list for one value a line."""
    try:
        return json_value(content)
    except UserError as whole:
        values = []
        for number, line in enumerate(content.splitlines(), 1):
            try:
                values.extend([json_value(line)] if line.strip() else [])
            except UserError as error:
                # With one value a line the first line is one; else the file was meant to be a single one.
                problem = f"{name} line {number} {error}" if values else f"{name} {whole}"
                raise UserError(problem) from None
        return values


def _entries(document: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The questions of a file with their places, each with its ``context``."""
    articles = document["data"] if isinstance(document, dict) and "data" in document else document
    if isinstance(articles, dict) and "question" in articles:
        articles = [articles]
    if not isinstance(articles, list):
        raise UserError(f"{name} has no list 'data'; give a file of SQuAD's form")
    for number, article in enumerate(articles):
        if not isinstance(article, dict) or "paragraphs" not in article:
            yield f"question {number + 1}", article
            continue
        for place, paragraph in enumerate(article["paragraphs"]):
            where = f"article {number + 1} paragraph {place + 1}"
            if not isinstance(paragraph, dict) or not {"context", "qas"} <= paragraph.keys():
                raise UserError(f"{name} {where} has no context or no qas; give a file of SQuAD's form")
            for own, entry in enumerate(paragraph["qas"]):
                asked = {**entry, "context": paragraph["context"]} if isinstance(entry, dict) else entry
                yield f"{where} question {own + 1}", asked


def _example(entry: Any, place: str) -> Example:
    missing = {"question", "context"} - (entry.keys() if isinstance(entry, dict) else set())
    if missing:
        raise UserError(f"{place} has no {' and no '.join(sorted(missing))}; give a file of SQuAD's form")
    impossible = _truth(entry.get("is_impossible", False), place)
    if not impossible and entry.get("answers") is None:
        raise UserError(f"{place} has no answers; where there is none write an empty list, or is_impossible: true")
    try:
        return question_example(
            {
                "id": str(entry.get("id", "")),
                "question": entry["question"],
                "context": entry["context"],
                "answers": None if impossible else entry.get("answers"),
            }
        )
    except UserError as error:
        raise UserError(f"{place} {error}") from None


def _truth(raw: Any, place: str) -> bool:
    """A truth value, or its name as a text; raises ValueError for anything else."""
    names = {"true": True, "false": False, "1": True, "0": False, "none": False, "": False}
    found = names.get(str(raw).strip().lower())
    if found is None:
        raise UserError(f"{place} has {raw!r} as is_impossible; write true or false")
    return found
