"""Labels of rows: names as they stand, names for raw values, or classes of a score."""

import json
import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Tag

from raydistill.config.named import names_from
from raydistill.tasks._label_forms import nearest, written_forms
from raydistill.user_error import UserError

Column = str | int
"""A column's name, or its number from 0; negative numbers count from the end, -1 is the last."""
RawLabel = bool | int | float | str
"""A label as the data has it."""


ClassName = Annotated[str, BeforeValidator(names_from)]
"""The name of a class, which may be written as a whole number."""


@dataclass(frozen=True)
class Scores:
    """Classes of a score: ``names`` from the lowest scores to the highest, parted by thresholds."""

    column: Column
    """The column of numbers."""
    threshold: float | tuple[float, ...]
    """One number, or several in ascending order; a score on a threshold belongs to the class above it."""
    names: tuple[ClassName | None, ...]
    """The names of the classes, one more than thresholds; examples of a class that is null are left out."""

    def __post_init__(self) -> None:
        thresholds = self.thresholds
        if list(thresholds) != sorted(set(thresholds)) or not all(map(math.isfinite, thresholds)):
            raise UserError(f"threshold is {self.threshold}; give different numbers in ascending order")
        if len(self.names) != len(thresholds) + 1:
            raise UserError(
                f"names has {len(self.names)} entries; give {len(thresholds) + 1}, one more than thresholds"
            )

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The thresholds, one or several, as a tuple."""
        return self.threshold if isinstance(self.threshold, tuple) else (self.threshold,)


Label = Annotated[
    Annotated[Column, Tag("column")] | Annotated[Scores, Tag("scores")],
    Discriminator(lambda value: "scores" if isinstance(value, dict | Scores) else "column"),
]
"""A label's column, or the classes of a score; what is no mapping is taken for a column, so that mistakes are told of
one of the two."""


def class_of_score(scores: Scores, raw: Any) -> str | None:
    """The class of a score, None where its examples are left out; raises ValueError for what is no number."""
    try:
        score = float(raw)
    except (TypeError, ValueError):
        score = math.nan
    if math.isnan(score):
        raise UserError(f"has the score {raw!r} in column {scores.column!r}, which is not a number")
    return scores.names[bisect_right(scores.thresholds, score)]


def class_of_name(names: Mapping[RawLabel, str | None], raw: Any) -> str | None:
    """The class that ``names`` gives a raw label, None where its examples are left out; raises ValueError for others.

    Numbers and truth values, of a file or a configuration, are compared as JSON writes them, 1.0 as 1.
    """
    by_text = {_text(key): name for key, name in names.items()}
    by_form = {form: name for key, name in by_text.items() for form in written_forms(key)} | by_text
    for form in written_forms(_text(raw)):
        if form in by_form:
            return by_form[form]
    near = nearest(raw, by_text)
    raise UserError(f"has the label {raw!r}, which labels does not name; it names {', '.join(by_text)}{near}")


def plain_label(raw: Any) -> str | int | float:
    """A raw label as it stands; raises ValueError for a blank one and for what is no text, number or truth value."""
    if not isinstance(raw, str | int | float) or raw == "" or (isinstance(raw, float) and not math.isfinite(raw)):
        raise UserError(f"has the label {raw!r}; store a text, an integer or a float, or leave label out")
    return raw


def _text(value: Any) -> str:
    """A label as a configuration would write it; dates and decimals, which JSON does not have, as they print."""
    return value if isinstance(value, str) else json.dumps(value, default=str).strip('"')
