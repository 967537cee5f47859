"""Charts as places in percent of their area: the page's template draws them, and its script reads values from them."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

READ = "Point at a chart, or reach it with Tab and press the arrow keys, to read its values."
Point = tuple[float, float]
"""A value of each axis."""
_WIDE_RANGE = 30
"""Largest over smallest value beyond which an axis is logarithmic."""
_MARGIN = 0.04
"""Share of a range that is left free at its ends."""


def plain(value: float) -> str:
    """A number as an axis shows it."""
    return f"{value:,.6g}"


@dataclass(frozen=True)
class Axis:
    """What an axis shows; ``ticks`` are values with their texts."""

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    is_log: bool = False

    @classmethod
    def of(
        cls,
        values: Iterable[float],
        label: str,
        *,
        text: Callable[[float], str] = plain,
        is_log: bool | None = None,
        whole: bool = False,
        margin: float = _MARGIN,
    ) -> "Axis":
        """An axis for values, logarithmic where it is told so or they differ by orders of magnitude."""
        finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
        low, high = min(finite), max(finite)
        if is_log is None:
            is_log = low > 0 and high > _WIDE_RANGE * low
        if is_log and low > 0:
            free = (high / low) ** margin if high > low else 2.0
            low, high = low / free, high * free
            return cls(label, low, high, [(tick, text(tick)) for tick in _log_ticks(low, high)], True)
        free = (high - low) * margin if high > low else (abs(low) * 0.1 or 1.0) * (margin > 0)
        low, high = low - free, high + free
        high = high if high > low else low + 1.0
        return cls(label, low, high, [(tick, text(tick)) for tick in _ticks(low, high, whole=whole)])

    @classmethod
    def of_choices(cls, texts: Sequence[str], label: str) -> "Axis":
        """An axis whose values are the numbers of choices."""
        return cls(label, -0.5, len(texts) - 0.5, list(enumerate(texts)))

    def place(self, value: float) -> float:
        """Where a value lies, in percent from the axis's low end."""
        if self.is_log:
            return 100 * math.log(value / self.low) / math.log(self.high / self.low)
        return 100 * (value - self.low) / (self.high - self.low)


def _ticks(low: float, high: float, *, whole: bool) -> list[float]:
    """Three to seven round numbers."""
    # Steps have long texts.
    raw = (high - low) / (5 if whole else 6)
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(times * size for times in (1, 2, 5, 10) if times * size >= raw * 0.999)
    step = max(1.0, step) if whole else step
    first = math.ceil(low / step - 1e-9)
    # Rounded, because 3 * 0.1 is not 0.3.
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    orders = math.log10(high / low)
    times = (1, 2, 5) if orders < 2 else (1, 3) if orders < 3.5 else (1,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [one * 10.0**decade for decade in decades for one in times if low <= one * 10.0**decade <= high]


Look = Literal["line", "dashed", "dotted", "thin", "bold", "level", "dot", "ring", "star"]


@dataclass(frozen=True)
class Key:
    """How something is drawn: a colour's number, or a name of one, and a look."""

    label: str
    color: int | str
    look: Look = "line"


@dataclass(frozen=True)
class Line:
    """A stroke through points."""

    key: Key
    points: Sequence[Point]


@dataclass(frozen=True)
class Band:
    """An area between two values at each place."""

    key: Key
    points: Sequence[tuple[float, float, float]]
    """Place, low and high."""


@dataclass(frozen=True)
class Mark:
    """A point with its name beside it, empty for none."""

    key: Key
    at: Point
    name: str = ""


@dataclass(frozen=True)
class Reading:
    """What can be read at a place: a heading and values, each with its key; without ``y`` at all heights."""

    x: float
    y: float | None
    heading: str
    values: Sequence[tuple[Key, str]]


@dataclass(frozen=True)
class Chart:
    """One chart; all places are values of its axes."""

    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line] = ()
    bands: Sequence[Band] = ()
    marks: Sequence[Mark] = ()
    levels: Sequence[tuple[Key, float]] = ()
    corner: Point | None = None
    """Where the part begins that is as good and cheaper: the upper, or lower, left one."""
    is_upper: bool = True
    labels: Sequence[tuple[float, float, str]] = ()
    """Texts inside the chart."""
    readings: Sequence[Reading] = ()

    def path(self, points: Iterable[Point]) -> str:
        """An SVG path in a square of 100, downwards from its top."""
        drawn = [f"{self.x.place(x):.2f} {100 - self.y.place(y):.2f}" for x, y in points if math.isfinite(y)]
        # A stroke of no length is drawn as a dot.
        return f"M{'L'.join(drawn if len(drawn) > 1 else drawn * 2)}" if drawn else ""

    def area(self, band: Band) -> str:
        """The path around a band."""
        ends = [(x, low) for x, low, _ in reversed(band.points)]
        return self.path([*((x, high) for x, _, high in band.points), *ends]) + "Z"

    def corner_box(self) -> dict[str, float]:
        """The corner's rectangle in percent."""
        assert self.corner is not None
        x, y = self.x.place(self.corner[0]), 100 - self.y.place(self.corner[1])
        top, height = (0.0, y) if self.is_upper else (y, 100 - y)
        return {"x": 0.0, "width": x, "y": top, "height": height}

    def named_marks(self) -> list[dict[str, Any]]:
        """Marks with places in percent; names stand where there is room, moved apart where they would meet."""
        found: list[dict[str, Any]] = []
        taken: list[tuple[bool, float]] = []
        for mark in sorted(self.marks, key=lambda mark: -mark.at[1]):
            x, y = self.x.place(mark.at[0]), 100 - self.y.place(mark.at[1])
            is_left, text_y = x > 55, y
            while mark.name and any(side == is_left and abs(text_y - other) < 6.5 for side, other in taken):
                text_y += 1.0
            if mark.name:
                taken.append((is_left, text_y))
            found.append({"mark": mark, "x": x, "y": y, "text_y": text_y, "is_left": is_left})
        return found

    def data(self) -> list[list[Any]]:
        """The readings for the script: place in percent, heading, and of each value colour, look, label and text."""
        return [
            [
                round(self.x.place(one.x), 2),
                None if one.y is None else round(100 - self.y.place(one.y), 2),
                one.heading,
                [[key.color, key.look, key.label, text] for key, text in one.values],
            ]
            for one in self.readings
        ]


@dataclass(frozen=True)
class Charts:
    """Charts that share a legend."""

    charts: Sequence[Chart]
    legend: Sequence[Key] = ()
    note: str = ""
    kind: str = field(default="charts", init=False)

    @property
    def is_single(self) -> bool:
        """Whether there is one, which has the page's width."""
        return len(self.charts) == 1


def read_along(values: Mapping[float, Sequence[tuple[Key, str]]], heading: Callable[[float], str]) -> list[Reading]:
    """A reading for each place along an axis, in order."""
    return [Reading(place, None, heading(place), values[place]) for place in sorted(values)]
