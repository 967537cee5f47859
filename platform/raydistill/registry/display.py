"""Versions of a student as lines, alone and side by side."""

from collections.abc import Mapping
from typing import Any

from raydistill.registry.card import number
from raydistill.registry.gate import gate_line
from raydistill.registry.student import BYTES_TAG, LICENCE_TAG, PARAMETERS_TAG, StudentVersion, method_options, size

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


def version_lines(version: StudentVersion) -> list[str]:
    """What is known of a version, then a table of figures: a line a figure, a column a model."""
    aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
    lines = [f"  {title:<{_TITLE_WIDTH}}  {text}" for title, text in facts(version).items()]
    return [f"{version.title}{aliases}", *lines, *_table(version)]


def facts(version: StudentVersion) -> dict[str, str]:
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
    found["licence"] = tags.get(LICENCE_TAG) or "not stated"
    found["gate"] = "none" if version.gate is None else gate_line(version.gate)
    return found


def comparison(first: StudentVersion, second: StudentVersion) -> list[dict[str, Any]]:
    """A row for each fact and each figure of two versions: ``first``, ``second``, ``difference``.

    ``difference`` is the second less the first for figures that both have, and whether they differ for the rest.
    """
    known = [facts(one) for one in (first, second)]
    rows: list[dict[str, Any]] = [
        {"what": title, **dict(zip(("first", "second"), pair, strict=True)), "difference": pair[0] != pair[1]}
        for title in _united(*known)
        if (pair := [one.get(title) for one in known])
    ]
    figures = [_all_figures(one) for one in (first, second)]
    for title in _united(*figures):
        one, other = (each.get(title) for each in figures)
        difference = None if one is None or other is None else other - one
        rows.append({"what": title, "first": one, "second": other, "difference": difference})
    return rows


def comparison_lines(first: StudentVersion, second: StudentVersion) -> list[list[str]]:
    """The same as cells of text, the head first."""
    rows = [
        [row["what"], _cell(row["first"]), _cell(row["second"]), _difference(row)] for row in comparison(first, second)
    ]
    return [["", first.title, second.title, "difference"], *rows]


def _all_figures(version: StudentVersion) -> dict[str, float]:
    """Figures of a version by role, those of several teachers by name."""
    found: dict[str, float] = {}
    for row in version.rows:
        owner = "" if row.role == "student" else f"{row.role} "
        for figure, value in row.figures.items():
            title = f"{owner}{figure}"
            found[title if title not in found else f"{row.role} {row.name} {figure}"] = value
    return found


def _difference(row: Mapping[str, Any]) -> str:
    value = row["difference"]
    if isinstance(value, bool) or value is None:
        return "differs" if value or (value is None and row["first"] != row["second"]) else ""
    return "" if value == 0 else f"{value:+,.6g}"


def _cell(value: str | float | None) -> str:
    return "" if value is None else value if isinstance(value, str) else number(value)


def _united(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys([*first, *second]))


def _table(version: StudentVersion) -> list[str]:
    rows = version.rows
    if not rows:
        return []
    head = ["", *(row.role if row.name == row.role else f"{row.role} ({row.name})" for row in rows)]
    names = dict.fromkeys(figure for row in rows for figure in row.figures)
    cells = [head, *([name, *(number(row.figures.get(name)) for row in rows)] for name in names)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "",
        *(
            "  "
            + "  ".join(
                [
                    f"{line[0]:<{widths[0]}}",
                    *(f"{cell:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True)),
                ]
            )
            for line in cells
        ),
    ]
