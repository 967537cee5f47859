"""Registered students as lines and tables of text."""

from collections.abc import Mapping, Sequence
from typing import Any

from raydistill.registry.gate import gate_line
from raydistill.registry.student import (
    BYTES_TAG,
    LICENSE_TAG,
    PARAMETERS_TAG,
    STUDENT,
    RegisteredStudent,
    StudentVersion,
    figure_cells,
    method_options,
    number,
    size,
)
from raydistill.terminal import drawn

_LINEAGE = {
    "method": "method",
    "teacher": "teachers",
    "teacher_hash": "content of teachers",
    "corpus": "corpus",
    "corpus_hash": "content of corpus",
    "layer_plan": "layer plan",
    "campaign": "campaign",
    "run": "run",
    "job": "job",
}
_TITLE_WIDTH = 20


def list_lines(students: Sequence[RegisteredStudent]) -> list[str]:
    """A table with a line per student."""
    rows = [["name", "versions", "aliases", "job", "best metric"]]
    for student in students:
        known, best = student.as_data(), student.best
        rows.append(
            [
                student.name,
                ", ".join(map(str, known["versions"])) or "none",
                ", ".join(f"{alias}={at}" for alias, at in student.aliases.items()),
                known["job"] or "",
                "" if best is None else f"{best[0]} {best[1]:.6g} (version {best[2]})",
            ]
        )
    return drawn(rows[0], rows[1:], ruled=False)


def version_lines(version: StudentVersion) -> list[str]:
    """What is known of a version, then a table of figures: a line per figure, a column per model."""
    aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
    lines = [f"  {title:<{_TITLE_WIDTH}}  {text}" for title, text in _facts(version).items()]
    head = ["", *(row.title for row in version.rows)]
    table = drawn(head, figure_cells(version.rows), ruled=False) if version.rows else []
    return [f"{version.title}{aliases}", *lines, *([""] if table else []), *table]


def comparison(first: StudentVersion, second: StudentVersion) -> list[dict[str, Any]]:
    """A row for each fact and each figure of two versions: ``first``, ``second``, ``difference``.

    ``difference`` is the second less the first for figures that both have, and whether they differ for the rest.
    """
    rows: list[dict[str, Any]] = [
        {"what": title, "first": one, "second": other, "difference": one != other}
        for title, one, other in _pairs(_facts(first), _facts(second))
    ]
    for title, one, other in _pairs(_figures(first), _figures(second)):
        difference = None if one is None or other is None else other - one
        rows.append({"what": title, "first": one, "second": other, "difference": difference})
    return rows


def comparison_lines(first: StudentVersion, second: StudentVersion) -> list[str]:
    """The same as aligned lines under a head."""
    rows = [
        [row["what"], _cell(row["first"]), _cell(row["second"]), _difference(row)] for row in comparison(first, second)
    ]
    return drawn(["", first.title, second.title, "difference"], rows, ruled=False)


def _facts(version: StudentVersion) -> dict[str, str]:
    """What is known of a version beside its figures, by title."""
    tags = version.tags
    found = {title: tags[name] for name, title in _LINEAGE.items() if tags.get(name)}
    options = method_options(tags)
    if options:
        found["method options"] = ", ".join(f"{key}={value}" for key, value in options.items())
    for name, title in ((PARAMETERS_TAG, "parameters"), (BYTES_TAG, "bytes of weights")):
        value = size(tags, name)
        if value is not None:
            found[title] = f"{value:,}"
    found["license"] = tags.get(LICENSE_TAG) or "not stated"
    found["gate"] = "none" if version.gate is None else gate_line(version.gate)
    return found


def _figures(version: StudentVersion) -> dict[str, float]:
    """Figures of a version by role, those of several teachers by name."""
    found: dict[str, float] = {}
    for row in version.rows:
        owner = "" if row.role == STUDENT else f"{row.role} "
        for figure, value in row.figures.items():
            title = f"{owner}{figure}"
            found[title if title not in found else f"{row.role} {row.name} {figure}"] = value
    return found


def _pairs(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Each key of either mapping with both values, None where one has none."""
    return [(key, first.get(key), second.get(key)) for key in dict.fromkeys([*first, *second])]


def _difference(row: Mapping[str, Any]) -> str:
    value = row["difference"]
    if isinstance(value, bool) or value is None:
        return "differs" if row["first"] != row["second"] else ""
    return "" if value == 0 else f"{value:+,.6g}"


def _cell(value: str | float | None) -> str:
    return value if isinstance(value, str) else number(value)
