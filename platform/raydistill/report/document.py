"""What a page says, without how it looks: of a job's report or of a campaign."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from raydistill.report.chart import Charts


@dataclass(frozen=True)
class Table:
    """A table that can be sorted; a cell that is a ``Cell`` has its place in the order from its number."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    """What files beside the page have of it, by their names."""
    kind: str = field(default="table", init=False)

    def is_number(self, column: int) -> bool:
        """Whether a column has numbers, so that it stands to the right."""
        return any(getattr(row[column], "order", None) is not None for row in self.rows)


@dataclass(frozen=True)
class Listing:
    """Terms and what belongs to them."""

    pairs: Sequence[tuple[str, str]]
    kind: str = field(default="listing", init=False)


@dataclass(frozen=True)
class Code:
    """A text to copy; with a ``summary`` it opens on request."""

    text: str
    summary: str = ""
    kind: str = field(default="code", init=False)


@dataclass(frozen=True)
class Confusion:
    """Counts of rows by true class, downwards, and predicted class."""

    model: str
    labels: Sequence[str]
    counts: Sequence[Sequence[int]]
    kind: str = field(default="confusion", init=False)

    def share(self, row: int, column: int) -> float:
        """Of the rows of a class those with a prediction."""
        return self.counts[row][column] / max(1, sum(self.counts[row]))


@dataclass(frozen=True)
class Answer:
    """What a model said of a row, and whether that is right; None where nobody knows."""

    role: str
    text: str
    is_right: bool | None


@dataclass(frozen=True)
class Example:
    """A row on which models differ."""

    row: int
    text: str
    """The row's text, empty where it is not there."""
    label: str | None
    answers: Sequence[Answer]


@dataclass(frozen=True)
class Examples:
    """Rows of one kind."""

    title: str
    examples: Sequence[Example]
    kind: str = field(default="examples", init=False)


Block = Table | Listing | Code | Confusion | Examples | Charts


@dataclass(frozen=True)
class Section:
    """A part of the page; ``name`` is its address there."""

    name: str
    title: str
    blocks: Sequence[Block]
    lead: str = ""


@dataclass(frozen=True)
class Tile:
    """One figure of the verdict."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Verdict:
    """What came out, in one sentence, with its figures."""

    sentence: str
    tiles: Sequence[Tile] = ()


@dataclass(frozen=True)
class Document:
    """A whole page."""

    kind: str
    """Such as ``Report of a job``."""
    title: str
    description: str
    verdict: Verdict
    sections: Sequence[Section]
