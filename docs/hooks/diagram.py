"""Diagrams that are written as text: boxes on a grid and arrows between them, drawn as SVG when the site is built.

The first line is the title. Then each line is a row of the grid: cells divided by ``|``, each empty or
``name [text]``, where ``/`` in the text begins another line. After ``---`` each line is an arrow, ``from -> to``, with
an optional ``: label``; ``from --> to`` is dashed.
"""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_CELL = re.compile(r"(?P<name>\w+)\s*\[(?P<text>.*)\]")
_ARROW = re.compile(r"(?P<start>\w+)\s*(?P<line>-->|->)\s*(?P<end>\w+)\s*(?::\s*(?P<label>.*))?")
_LETTER, _LINE, _PADDING = 7.2, 18, 14
_GAP_X, _GAP_Y, _HEIGHT = 46, 46, 54
_SMALLEST = 0.75
"""Part of its size that a diagram keeps on a small screen, where the reader moves it sideways."""


@dataclass(frozen=True)
class _Box:
    row: int
    column: int
    x: float
    y: float
    width: float
    lines: tuple[str, ...]

    @property
    def middle(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + _HEIGHT / 2


def fence(source: str, language: str, class_name: str, options: Any, md: Any, **rest: Any) -> str:
    """What ``pymdownx.superfences`` calls for a fence of the kind ``diagram``."""
    return svg(source)


def svg(source: str) -> str:
    """The diagram as an SVG element that takes the page's colors; raises ValueError for a line that it cannot read."""
    title, _, rest = source.strip().partition("\n")
    grid, _, arrows = rest.partition("\n---")
    drawn = [_found(_ARROW, line, "start -> end: label") for line in filter(None, map(str.strip, arrows.splitlines()))]
    rows = [[cell.strip() for cell in line.split("|")] for line in grid.strip().splitlines()]
    boxes, width, height = _placed(rows, drawn)
    parts = [part for name in boxes for part in _drawn(boxes[name])]
    for arrow in drawn:
        start, end = boxes[arrow["start"]], boxes[arrow["end"]]
        parts += _arrow(start, end, arrow["label"] or "", dashed=arrow["line"] == "-->")
    return (
        f'<div class="diagram"><svg role="img" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'style="min-width:{_SMALLEST * width:.0f}px; max-width:{width:.0f}px">'
        f"<title>{html.escape(title)}</title>"
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        f'<path d="M0 0 8 4 0 8z"/></marker></defs>{"".join(parts)}</svg></div>'
    )


def _found(pattern: re.Pattern[str], text: str, form: str) -> re.Match[str]:
    found = pattern.fullmatch(text)
    if found is None:
        raise ValueError(f"a diagram has {text!r}; write {form}")
    return found


def _placed(rows: list[list[str]], arrows: list[re.Match[str]]) -> tuple[dict[str, _Box], float, float]:
    """The boxes by name, and the width and the height of all; raises KeyError for an arrow to no box."""
    cells: dict[str, tuple[int, int, tuple[str, ...]]] = {}
    for row, line in enumerate(rows):
        for column, cell in enumerate(line):
            if cell:
                found = _found(_CELL, cell, "name [text]")
                cells[found["name"]] = row, column, tuple(part.strip() for part in found["text"].split("/"))
    widths = [0.0] * max(len(line) for line in rows)
    for _, column, lines in cells.values():
        widths[column] = max(widths[column], max(map(len, lines)) * _LETTER + 2 * _PADDING)
    gaps = [float(_GAP_X)] * len(widths)
    for arrow in arrows:
        (row, column, _), (row_of_end, column_of_end, _) = cells[arrow["start"]], cells[arrow["end"]]
        if abs(column - column_of_end) == 1 and row == row_of_end:
            left = min(column, column_of_end)
            gaps[left] = max(gaps[left], len(arrow["label"] or "") * _LETTER + 20)
    starts = [2 + sum(widths[:column]) + sum(gaps[:column]) for column in range(len(widths))]
    boxes = {
        name: _Box(row, column, starts[column], 2 + row * (_HEIGHT + _GAP_Y), widths[column], lines)
        for name, (row, column, lines) in cells.items()
    }
    return boxes, starts[-1] + widths[-1] + 2, len(rows) * (_HEIGHT + _GAP_Y) - _GAP_Y + 4


def _drawn(box: _Box) -> Iterator[str]:
    yield f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{_HEIGHT}" rx="6"/>'
    x, y = box.middle
    first = y - (len(box.lines) - 1) * _LINE / 2 + 4.5
    for number, line in enumerate(box.lines):
        name, at = ("more" if number else "first"), first + number * _LINE
        yield f'<text class="{name}" text-anchor="middle" x="{x:.1f}" y="{at:.1f}">{html.escape(line)}</text>'


def _arrow(start: _Box, end: _Box, label: str, *, dashed: bool) -> Iterator[str]:
    points = _way(start, end)
    path = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    yield f'<path class="arrow{" dashed" if dashed else ""}" marker-end="url(#arrow)" d="{path}"/>'
    if label:
        (x1, y1), (x2, y2) = points[-2:] if len(points) == 2 else points[1:3]
        sideways = abs(x1 - x2) < 1
        x, y, anchor = (
            (x1 + 6, (y1 + y2) / 2 + 4, "start") if sideways else ((x1 + x2) / 2, (y1 + y2) / 2 - 6, "middle")
        )
        yield f'<text class="label" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(label)}</text>'


def _way(start: _Box, end: _Box) -> list[tuple[float, float]]:
    """Corners of an arrow, which runs along the grid."""
    (x1, y1), (x2, y2) = start.middle, end.middle
    if start.column == end.column:
        down = end.row > start.row
        return [(x1, start.y + (_HEIGHT if down else 0)), (x2, end.y + (0 if down else _HEIGHT))]
    right = end.column > start.column
    side1, side2 = start.x + (start.width if right else 0), end.x + (0 if right else end.width)
    if start.row == end.row:
        return [(side1, y1), (side2, y2)]
    if abs(start.column - end.column) == 1:
        middle = (side1 + side2) / 2
        return [(side1, y1), (middle, y1), (middle, y2), (side2, y2)]
    down = end.row > start.row
    turn = end.y - _GAP_Y / 2 if down else end.y + _HEIGHT + _GAP_Y / 2
    return [(x1, start.y + (_HEIGHT if down else 0)), (x1, turn), (x2, turn), (x2, end.y + (0 if down else _HEIGHT))]
