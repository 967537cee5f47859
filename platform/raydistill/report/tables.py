"""Tables that compare models, a row for all runs that differ in their seed alone: cells, Markdown and CSV."""

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from raydistill import names
from raydistill.report.columns import Column, column, in_order
from raydistill.report.grouping import grouped, value_text, without_seed

Style = Callable[[str], Column]

_IN_FILES_ONLY = {"tokens", "rows", "latency_spread_ms", "batch_latency_spread_ms"}
"""Figures that are the same for all models of a comparison, or stand beside others, left out where room is short."""


class Cell(str):
    """The text of a cell with the number that it stands for, by which its column is sorted; None for none."""

    order: float | None

    def __new__(cls, text: str, order: float | None = None) -> "Cell":
        """A text that is a string wherever strings are."""
        cell = super().__new__(cls, text)
        cell.order = order
        return cell


@dataclass(frozen=True)
class Entry:
    """Figures of one run of one model; ``assignment`` has the matrix keys that made the run."""

    model: str
    assignment: Mapping[str, Any]
    figures: Mapping[str, float]

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "Entry":
        """An entry of an evaluation's summary, whose other keys are left out."""
        return cls(data["model"], dict(data["assignment"]), dict(data["figures"]))


@dataclass(frozen=True)
class Statistic:
    """Mean of n values and their spread, the sample standard deviation, which one value has not."""

    mean: float
    spread: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Statistic":
        """Mean and spread of at least one value."""
        n, mean = len(values), sum(values) / len(values)
        if all(value == values[0] for value in values):
            # The rounded mean of equal values may be another one, and their spread not 0.
            mean = values[0]
        # Multiplied, not raised: ** fails on large floats where * gives infinity.
        squares = sum((value - mean) * (value - mean) for value in values)
        return cls(mean, math.sqrt(squares / (n - 1)) if n > 1 else None, n)

    def text(self, number: Callable[[float], str]) -> str:
        """The mean and, where there is one, the spread."""
        return number(self.mean) if self.spread is None else f"{number(self.mean)} ± {number(self.spread)}"


@dataclass(frozen=True)
class Group:
    """Entries that differ in nothing but their seed: one row of a table."""

    name: str
    """Such as ``student`` or ``student (temperature=2)``, unambiguous among its table's rows."""
    model: str
    assignment: Mapping[str, Any]
    n: int
    figures: Mapping[str, Statistic]

    def as_data(self) -> dict[str, Any]:
        """The group as JSON-ready data."""
        return asdict(self)


def group(entries: Sequence[Entry]) -> list[Group]:
    """Rows of a table, in order of first appearance."""
    return [
        _group(name, [entries[position] for position in positions])
        for name, positions in grouped([(entry.model, entry.assignment) for entry in entries])
    ]


def _group(name: str, entries: Sequence[Entry]) -> Group:
    figures = {
        figure: Statistic.of([float(entry.figures[figure]) for entry in entries if figure in entry.figures])
        for figure in dict.fromkeys(figure for entry in entries for figure in entry.figures)
    }
    return Group(name, entries[0].model, without_seed(entries[0].assignment), len(entries), figures)


def rows_of(groups: Sequence[Group], style: Style = column) -> tuple[list[str], list[list[Cell]]]:
    """Header and cells: ``n`` only where a row has several runs, no column for a figure that none has.

    ``style`` gives each figure its heading and format.
    """
    figures = [name for name in _figures(groups) if name not in _IN_FILES_ONLY]
    several = any(row.n > 1 for row in groups)
    header = ["model", *(["n"] if several else []), *(style(figure).heading for figure in figures)]
    rows = [
        [
            Cell(row.name),
            *([Cell(str(row.n), row.n)] if several else []),
            *(_cell(style(figure), figure, row.figures) for figure in figures),
        ]
        for row in groups
    ]
    return header, rows


def _figures(groups: Iterable[Group]) -> list[str]:
    return in_order(figure for row in groups for figure in row.figures)


def _cell(style: Column, figure: str, figures: Mapping[str, Statistic]) -> Cell:
    if figure not in figures:
        return Cell("")
    found = figures[figure]
    if style.own_spread:
        own = figures.get(style.own_spread)
        found = replace(found, spread=None if own is None else own.mean)
    if style.is_count and found.spread == 0:
        found = replace(found, spread=None)
    return Cell(found.text(style.text), found.mean)


def same_data(groups: Sequence[Group]) -> list[str]:
    """On how many tokens or rows all models are scored, where these are the same."""
    for what in ("tokens", "rows"):
        counts = {row.figures[what].mean if what in row.figures else None for row in groups}
        if len(counts) == 1 and None not in counts:
            return [f"All models are scored on the same {counts.pop():,.0f} {what}."]
    return []


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of texts: the first column to the left, the others to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    escaped = (map(names.markdown, cells) for cells in (header, *rows))
    lines = [f"| {' | '.join(cells)} |\n" for cells in escaped]
    return "".join([lines[0], f"| {' | '.join(rule)} |\n", *lines[1:]])


def markdown(groups: Sequence[Group], style: Style = column) -> str:
    """The comparison as a Markdown table."""
    return markdown_table(*rows_of(groups, style))


def csv_groups(groups: Sequence[Group]) -> str:
    """The comparison as CSV: a line a group, the matrix keys, n, and ``<figure>_mean`` and ``<figure>_spread``."""
    keys = list(dict.fromkeys(key for row in groups for key in row.assignment))
    figures = _figures(groups)
    header = ["model", *keys, "n", *(f"{figure}_{part}" for figure in figures for part in ("mean", "spread"))]
    lines = [
        [row.model, *_values(row.assignment, keys), row.n, *(cell for name in figures for cell in _pair(row, name))]
        for row in groups
    ]
    return _csv(header, lines)


def _pair(row: Group, figure: str) -> tuple[float | None, float | None]:
    statistic = row.figures.get(figure)
    return (None, None) if statistic is None else (statistic.mean, statistic.spread)


def csv_runs(entries: Sequence[Entry]) -> str:
    """Every figure of every run as one line of CSV: model, the matrix keys with the seed, figure, value."""
    keys = list(dict.fromkeys(key for entry in entries for key in entry.assignment))
    lines = [
        [entry.model, *_values(entry.assignment, keys), figure, value]
        for entry in entries
        for figure, value in entry.figures.items()
    ]
    return _csv(["model", *keys, "figure", "value"], lines)


def data_frame(entries: Sequence[Entry]) -> Any:
    """A pandas DataFrame with a row for each run: model, the matrix keys, figures; NaN where it has none."""
    # Slow to import, and no command needs it.
    import pandas

    keys = list(dict.fromkeys(key for entry in entries for key in entry.assignment))
    figures = in_order(figure for entry in entries for figure in entry.figures)
    rows = [{"model": entry.model, **entry.assignment, **entry.figures} for entry in entries]
    return pandas.DataFrame(rows, columns=["model", *keys, *figures])


def _values(assignment: Mapping[str, Any], keys: Iterable[str]) -> list[str]:
    return [value_text(assignment[key]) if key in assignment else "" for key in keys]


def _csv(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return text.getvalue()
