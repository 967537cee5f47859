"""Tables that compare models, for a terminal and as Markdown."""

from collections.abc import Callable, Mapping

from rich.table import Table

Figures = Mapping[str, float]

_COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "loss": ("held-out loss", lambda value: f"{value:.4f}"),
    "perplexity": ("perplexity", lambda value: f"{value:,.1f}"),
    "accuracy": ("masked accuracy", lambda value: f"{value:.1%}"),
    "parameters": ("parameters", lambda value: f"{value:,.0f}"),
}


def comparison_rows(models: Mapping[str, Figures]) -> tuple[list[str], list[list[str]]]:
    """Header and one row of text for each model; figures that no model has get no column."""
    keys = [key for key in _COLUMNS if any(key in figures for figures in models.values())]
    header = ["model", *(_COLUMNS[key][0] for key in keys)]
    rows = [
        [name, *(_COLUMNS[key][1](figures[key]) if key in figures else "" for key in keys)]
        for name, figures in models.items()
    ]
    return header, rows


def comparison_table(models: Mapping[str, Figures], *, title: str = "") -> Table:
    """The comparison as a table for a terminal."""
    header, rows = comparison_rows(models)
    table = Table(title=title or None)
    for position, name in enumerate(header):
        table.add_column(name, justify="left" if position == 0 else "right")
    for row in rows:
        table.add_row(*row)
    return table


def comparison_markdown(models: Mapping[str, Figures]) -> str:
    """The comparison as a Markdown table."""
    header, rows = comparison_rows(models)
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, rule, *rows))
