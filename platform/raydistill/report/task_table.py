"""The table of a study over several tasks: a row a model, its average first, then a column a task, in hundredths.

So published tables of GLUE have it, with several metrics of one task as their mean. Without an average the columns may
be anything that models of one name are compared by.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raydistill.report.columns import Column
from raydistill.report.tables import Entry

AVERAGE = "average"
NO_SCORES = frozenset({"loss", "perplexity"})
"""Metrics that have no best value of 1, so that no average can have them."""


@dataclass(frozen=True)
class TaskColumn:
    """Entries of one task's evaluation, and the metrics whose mean is the task's score."""

    entries: Sequence[Entry]
    metrics: Sequence[str]


def task_entries(columns: Mapping[str, TaskColumn], averaged: Sequence[str]) -> list[Entry]:
    """One entry for all that the columns have of one model with one assignment, in order of first appearance.

    Its figures are a score for each column that has the metrics and, before them, the ``average`` of the ``averaged``
    columns, left out where there are none or one of them is missing: averages of different tasks do not compare.
    """
    found: dict[str, tuple[Entry, dict[str, float]]] = {}
    for name, column in columns.items():
        for entry in column.entries:
            key = json.dumps([entry.model, dict(entry.assignment)], sort_keys=True)
            _, scores = found.setdefault(key, (entry, {}))
            if all(metric in entry.figures for metric in column.metrics):
                scores[name] = sum(entry.figures[metric] for metric in column.metrics) / len(column.metrics)
    return [Entry(entry.model, entry.assignment, _with_average(scores, averaged)) for entry, scores in found.values()]


def _with_average(scores: Mapping[str, float], averaged: Sequence[str]) -> dict[str, float]:
    if not averaged or not all(name in scores for name in averaged):
        return dict(scores)
    return {AVERAGE: sum(scores[name] for name in averaged) / len(averaged), **scores}


def in_hundredths(name: str) -> Column:
    """The style of a score: 0.7714 is written as 77.14."""
    return Column(name, lambda score: f"{100 * score:.2f}")


def note(columns: Mapping[str, TaskColumn], averaged: Sequence[str]) -> str:
    """What the columns are, in one sentence."""
    scores = ", ".join(f"{name} ({' and '.join(column.metrics)})" for name, column in columns.items())
    several = any(len(column.metrics) > 1 for column in columns.values())
    mean = ", of several metrics their mean" if several else ""
    if not averaged:
        return f"In hundredths: {scores}{mean}."
    over = "all columns" if list(averaged) == list(columns) else ", ".join(averaged)
    return f"In hundredths: {scores}{mean}; the average is over {over}."
