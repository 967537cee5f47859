"""Tables that fit a terminal: turned, or cut into several, before anything of them is lost."""

import io
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

Row = Sequence[str]

_FRAME, _PADDING = 1, 3
"""Characters that a table needs beside its cells: by itself, and for each column; without lines it needs fewer."""
_LONGEST_LINE = 30
"""Characters of a cell beyond which its text may go on in the next line."""
_SHORTEST_NAME = 12


def drawn(header: Row, rows: Sequence[Row], *, width: int | None = None, ruled: bool = True) -> list[str]:
    """The lines of a table whose first column names its rows, at most ``width`` wide, by default as the terminal is.

    ``ruled`` tables have lines between their cells.

    A table that is too wide is turned, with a column for each row, where that fits. Else its columns are shared out
    among several tables, each with the names, which may take several lines and never lose a letter. A last line says
    what was done.
    """
    width = width or Console().width
    if _needed([header, *rows]) <= width:
        return _lines(header, rows, width, ruled)
    turned = [list(cells) for cells in zip(header, *rows, strict=True)]
    if _needed(turned) <= width:
        note = f"turned, a column for each {header[0] or 'row'}: the terminal has {width} columns"
        return [*_lines(turned[0], turned[1:], width, ruled), note]
    parts = _parts([header, *rows], width)
    lines = [line for part in parts for line in _lines(part[0], part[1:], width, ruled)]
    note = f"one table in {len(parts)} parts: the terminal has {width} columns"
    return [*lines, note] if len(parts) > 1 else lines


def _parts(table: Sequence[Row], width: int) -> list[list[Row]]:
    """The table's columns in tables that are no wider than ``width``, or have one column beside the names."""
    columns = list(zip(*table, strict=True))
    widths = [min(_widest(column), _LONGEST_LINE) for column in columns[1:]]
    names = max(_SHORTEST_NAME, min(_widest(columns[0]), width - _FRAME - 2 * _PADDING - max(widths)))
    room = width - _FRAME - _PADDING - names
    groups: list[list[int]] = []
    left = 0
    for position, needed in enumerate(widths, start=1):
        if not groups or needed + _PADDING > left:
            groups.append([])
            left = room
        groups[-1].append(position)
        left -= needed + _PADDING
    return [[[row[0], *(row[position] for position in group)] for row in table] for group in groups]


def _lines(header: Row, rows: Sequence[Row], width: int, ruled: bool) -> list[str]:
    table = Table() if ruled else Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for position, cells in enumerate(zip(header, *rows, strict=True)):
        is_name = position == 0
        table.add_column(
            Text(cells[0]),
            justify="right" if not is_name and all(map(_is_number, cells[1:])) else "left",
            no_wrap=not is_name and _widest(cells) <= _LONGEST_LINE,
            overflow="fold",
        )
    for row in rows:
        # Not as strings, in which brackets are markup.
        table.add_row(*map(Text, row))
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]


def _is_number(cell: str) -> bool:
    return not cell or (cell.lstrip("+-.")[:1].isdigit() and ", " not in cell)


def _needed(table: Sequence[Row]) -> int:
    """The width of a table no cell of which is broken."""
    return _FRAME + sum(_widest(column) + _PADDING for column in zip(*table, strict=True))


def _widest(cells: Sequence[str]) -> int:
    return max(map(cell_len, cells))
