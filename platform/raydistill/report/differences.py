"""What models said of the same rows: classes taken for each other, and rows on which student and teacher differ."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from raydistill.report.document import Answer, Confusion, Example, Examples, Table
from raydistill.report.tables import Cell

Texts = Callable[[Sequence[int]], Mapping[int, str]]
"""The texts of rows by their numbers, of those that are there."""
_PROBABILITY = "probability."
_MOST_CLASSES = 20
_MOST_EXAMPLES = 6
"""Rows of each kind that are shown."""
_LONGEST = 400
"""Characters of a text that are shown."""


@dataclass(frozen=True)
class Predictions:
    """What a model said of rows, as ``TaskBase.predictions`` has it."""

    model: str
    columns: Mapping[str, Sequence[Any]]

    @classmethod
    def read(cls, model: str, path: Any) -> "Predictions":
        """Of a Parquet file that an evaluation wrote."""
        return cls(model, pq.read_table(path).to_pydict())

    @property
    def classes(self) -> list[str]:
        """Names of the classes, none where predictions are no classes."""
        return [name.removeprefix(_PROBABILITY) for name in self.columns if name.startswith(_PROBABILITY)]

    def rows(self) -> dict[int, int]:
        """Place of each row by its number."""
        return {row: place for place, row in enumerate(self.columns["row_id"])}

    def is_right(self, place: int) -> bool | None:
        """Whether the prediction is the label; None without labels and for scores, which are never quite right."""
        if "exact_match" in self.columns:
            return bool(self.columns["exact_match"][place])
        if "label" not in self.columns or isinstance(self.columns["label"][place], float):
            return None
        return bool(self.columns["prediction"][place] == self.columns["label"][place])

    def sureness(self, place: int) -> float | None:
        """The probability of the predicted class."""
        column = self.columns.get(f"{_PROBABILITY}{self.columns['prediction'][place]}")
        return None if column is None else float(column[place])

    def answer(self, place: int, role: str) -> Answer:
        """What was said of a row, with how sure the model was."""
        said, sure = self.columns["prediction"][place], self.sureness(place)
        text = f"{said:.3f}" if isinstance(said, float) else str(said)
        return Answer(role, text if sure is None else f"{text} ({sure:.0%})", self.is_right(place))


def confusion(found: Predictions) -> Confusion | None:
    """Rows by true and predicted class; None where there are no classes, no labels or too many classes to read."""
    classes = found.classes
    if not 2 <= len(classes) <= _MOST_CLASSES or "label" not in found.columns:
        return None
    number = {name: place for place, name in enumerate(classes)}
    counts = [[0] * len(classes) for _ in classes]
    for label, said in zip(found.columns["label"], found.columns["prediction"], strict=True):
        counts[number[label]][number[said]] += 1
    return Confusion(found.model, classes, counts)


def agreement(student: Predictions, teacher: Predictions) -> Table | None:
    """How many rows both models, one or none of them have right; None where nobody knows what is right."""
    pairs = _pairs(student, teacher)
    if not pairs or student.is_right(pairs[0][1]) is None:
        return None
    counts: dict[tuple[bool, bool], int] = {}
    for _, mine, its in pairs:
        key = bool(student.is_right(mine)), bool(teacher.is_right(its))
        counts[key] = counts.get(key, 0) + 1
    named = {
        "both right": (True, True),
        "the teacher alone right": (False, True),
        "the student alone right": (True, False),
        "both wrong": (False, False),
    }
    rows = [
        [Cell(name), Cell(f"{counts.get(key, 0):,}", counts.get(key, 0)), _share(counts.get(key, 0), len(pairs))]
        for name, key in named.items()
    ]
    return Table(f"Student and teacher on the same {len(pairs):,} rows", ["outcome", "rows", "share"], rows)


def examples(student: Predictions, teacher: Predictions, texts: Texts) -> list[Examples]:
    """Rows on which the two differ, of each kind those first of which the student is surest."""
    kinds: dict[str, list[tuple[int, int, int]]] = {}
    for one in _pairs(student, teacher):
        _, mine, its = one
        if student.columns["prediction"][mine] != teacher.columns["prediction"][its]:
            kinds.setdefault(_kind(student, teacher, mine, its), []).append(one)
    chosen = {
        kind: sorted(rows, key=lambda one: _order(student, teacher, one))[:_MOST_EXAMPLES]
        for kind, rows in kinds.items()
    }
    found = texts([row for rows in chosen.values() for row, _, _ in rows]) if chosen else {}
    return [
        Examples(kind, [_example(student, teacher, one, found.get(one[0], "")) for one in chosen[kind]])
        for kind in sorted(chosen, key=_ORDER.index)
    ]


_TEACHER, _STUDENT, _BOTH, _SCORES = (
    "The teacher alone is right",
    "The student alone is right",
    "Both are wrong, each in its own way",
    "They differ most",
)
_ORDER = [_TEACHER, _STUDENT, _BOTH, _SCORES]


def _kind(student: Predictions, teacher: Predictions, mine: int, its: int) -> str:
    rights = student.is_right(mine), teacher.is_right(its)
    return {(False, True): _TEACHER, (True, False): _STUDENT, (False, False): _BOTH}.get(rights, _SCORES)  # type: ignore[arg-type]


def _order(student: Predictions, teacher: Predictions, one: tuple[int, int, int]) -> tuple[float, int]:
    row, mine, its = one
    said, other = student.columns["prediction"][mine], teacher.columns["prediction"][its]
    if isinstance(said, float):
        return -abs(said - other), row
    return -(student.sureness(mine) or 0.0), row


def _example(student: Predictions, teacher: Predictions, one: tuple[int, int, int], text: str) -> Example:
    row, mine, its = one
    label = student.columns["label"][mine] if "label" in student.columns else None
    shown = None if label is None else f"{label:.3f}" if isinstance(label, float) else str(label)
    cut = text if len(text) <= _LONGEST else text[: _LONGEST - 1].rstrip() + "…"
    return Example(row, cut, shown, [teacher.answer(its, "teacher"), student.answer(mine, "student")])


def _pairs(student: Predictions, teacher: Predictions) -> list[tuple[int, int, int]]:
    """Number of each row that both have, and its place in each."""
    mine, its = student.rows(), teacher.rows()
    return [(row, mine[row], its[row]) for row in mine if row in its]


def _share(count: int, total: int) -> Cell:
    return Cell(f"{count / total:.1%}", count / total)
