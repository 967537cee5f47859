"""A page of Markdown that has a job's tables and pictures and tells what each run was."""

from collections.abc import Sequence
from dataclasses import dataclass

from raydistill import names
from raydistill.names import Markup, code
from raydistill.report.columns import column
from raydistill.report.tables import Group, Style, markdown, markdown_table


@dataclass(frozen=True)
class Comparison:
    """The rows of one evaluation's table and the files, beside the page, that have them as CSV."""

    name: str
    groups: Sequence[Group]
    csv_groups: str
    csv_runs: str
    notes: Sequence[str] = ()
    """Sentences on how its figures were found."""
    style: Style = column
    """Heading and format of each figure."""


@dataclass(frozen=True)
class Shown:
    """A picture's file beside the page, what it shows, and what one has to know to read it."""

    file: str
    title: str
    caption: str


@dataclass(frozen=True)
class Trained:
    """What the page tells of one run of a training."""

    name: str
    method: str
    teacher: str
    num_steps: int
    figure: float | None
    """The last value of the page's metric."""
    folder: str
    """Relative to the page's own."""


def page(
    title: str,
    comparisons: Sequence[Comparison],
    trained: Sequence[Trained],
    *,
    shown: Sequence[Shown],
    metric: str,
) -> str:
    """The text of the page; ``metric`` is the one whose last value is told of each training, empty for none."""
    parts = [f"# {title}\n", *(_comparison(one) for one in comparisons)]
    parts += [f"## {one.title}\n\n![{one.title}]({one.file})\n\n{one.caption}\n" for one in shown]
    if trained:
        parts.append(_runs(trained, metric))
    return "\n".join(parts)


def _comparison(comparison: Comparison) -> str:
    notes = [
        *_same(comparison.groups),
        *map(names.markdown, comparison.notes),
        *(
            ["`n` runs differ in their seed alone; figures are their mean ± sample standard deviation."]
            if any(row.n > 1 for row in comparison.groups)
            else []
        ),
        f"As CSV: [rows of this table]({comparison.csv_groups}), [every run]({comparison.csv_runs}).",
    ]
    return f"## {comparison.name}\n\n{markdown(comparison.groups, comparison.style)}\n{' '.join(notes)}\n"


def _same(groups: Sequence[Group]) -> list[str]:
    """On how many tokens or rows all models are scored, where these are the same."""
    for what in ("tokens", "rows"):
        counts = {row.figures[what].mean if what in row.figures else None for row in groups}
        if len(counts) == 1 and None not in counts:
            return [f"All models are scored on the same {counts.pop():,.0f} {what}."]
    return []


def _runs(trained: Sequence[Trained], metric: str) -> str:
    style = column(metric)
    header = ["run", "method", "teacher", "steps", *([f"last {style.heading}"] if metric else []), "folder"]
    rows = [
        [
            code(run.name),
            run.method,
            run.teacher,
            f"{run.num_steps:,}",
            *(["" if run.figure is None else style.text(run.figure)] if metric else []),
            Markup(f"[{run.folder.rpartition('/')[2]}]({run.folder})"),
        ]
        for run in trained
    ]
    return (
        f"## Runs\n\n{markdown_table(header, rows)}\n"
        "A run's folder has its student and the `history.jsonl` that the pictures show; the resolved job is "
        "[resolved.yaml](../resolved.yaml). The tracking store has a run of each name.\n"
    )
