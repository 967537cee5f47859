"""A figure of several models against a key of their stages' matrix, such as accuracy against a teacher's sparsity."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raydistill.report.columns import column
from raydistill.report.grouping import grouped, short_keys
from raydistill.report.tables import Cell, Group, Statistic
from raydistill.user_error import UserError


@dataclass(frozen=True)
class Line:
    """The rows of one model that differ in the key alone; ``position`` is its place among all lines."""

    label: str
    position: int
    points: Mapping[float, Statistic]
    """The figure by the key's value, in order."""


@dataclass(frozen=True)
class Against:
    """All lines of one figure against one key."""

    key: str
    figure: str
    lines: Sequence[Line]

    @property
    def short_key(self) -> str:
        """The last part of the dotted key."""
        return short_keys([self.key])[self.key]

    @property
    def values(self) -> list[float]:
        """Every value that some line has, in order."""
        return sorted({value for line in self.lines for value in line.points})

    @classmethod
    def of(cls, groups: Sequence[Group], *, key: str, figure: str, models: Sequence[str] | None = None) -> "Against":
        """The lines of a comparison's rows, or of those of some models alone.

        Raises ValueError when no row has the key with the figure, and for a value that is no number.
        """
        rows = [row for row in groups if key in row.assignment and figure in row.figures]
        rows = rows if models is None else [row for row in rows if row.model in models]
        if not rows:
            keys = dict.fromkeys(name for row in groups for name in row.assignment)
            raise UserError(
                f"plot_against.key is {key!r}, which no row with {figure} has; keys: {', '.join(keys) or 'none'}"
            )
        for row in rows:
            value = row.assignment[key]
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UserError(
                    f"plot_against.key is {key!r}, which is {value!r} in {row.name}; name one that is a number"
                )
        others = [{name: value for name, value in row.assignment.items() if name != key} for row in rows]
        named = grouped([(row.model, other) for row, other in zip(rows, others, strict=True)])
        lines = []
        for position, (label, members) in enumerate(named):
            found = {float(rows[member].assignment[key]): rows[member].figures[figure] for member in members}
            lines.append(Line(label, position, dict(sorted(found.items()))))
        return cls(key, figure, lines)


def rows_of(against: Against) -> tuple[list[str], list[list[Cell]]]:
    """Header and cells: a line a value of the key, a column a model; means and, of several runs, spreads."""
    style = column(against.figure)

    def cell(line: Line, value: float) -> Cell:
        statistic = line.points.get(value)
        return Cell("") if statistic is None else Cell(statistic.text(style.text), statistic.mean)

    rows = [[Cell(f"{value:g}", value), *(cell(line, value) for line in against.lines)] for value in against.values]
    return [against.short_key, *(line.label for line in against.lines)], rows
