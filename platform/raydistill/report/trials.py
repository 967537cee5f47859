"""Tables and pictures of what trials of a search found: parallel coordinates, and the metric against each value."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raydistill.report.columns import column, significant
from raydistill.report.tables import markdown_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 8.0
"""Inches, as other pictures have."""
_COLOR, _BEST, _OTHER = "#0072B2", "#D55E00", "#777777"
_MOST_TICKS = 8
_LONGEST = 24


@dataclass(frozen=True)
class Tried:
    """One trial as tables and pictures show it."""

    number: int
    values: Mapping[str, Any]
    state: str
    metric: float | None
    steps: int = 0
    seconds: float = 0.0
    reason: str = ""

    @property
    def is_shown(self) -> bool:
        """Whether a picture has a place for it."""
        return self.metric is not None and math.isfinite(self.metric)


@dataclass(frozen=True)
class Scale:
    """How the values of one key lie on an axis."""

    key: str
    labels: tuple[str, ...] = ()
    """Texts of the values in order, where they are choices; then the value's place is its number."""
    is_log: bool = False

    def place(self, value: Any) -> float:
        """Where a value lies."""
        return float(self.labels.index(value_text(value))) if self.labels else float(value)


def scale_of(key: str, *, choices: Sequence[Any] | None, is_log: bool = False) -> Scale:
    """The scale of a key that has ``choices``, or None for a range of numbers."""
    return Scale(key, tuple(dict.fromkeys(map(value_text, choices))) if choices is not None else (), is_log)


def value_text(value: Any) -> str:
    """A value as a table shows it: numbers short, a section by its name and options."""
    if isinstance(value, float):
        return significant(value, 4)
    if isinstance(value, Mapping):
        options = ", ".join(f"{key}={value_text(item)}" for key, item in value.items() if key != "name")
        return f"{value['name']} ({options})" if options and "name" in value else str(value.get("name", options))
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(value_text, value)) + "]"
    return str(value)


def short_keys(keys: Sequence[str]) -> list[str]:
    """The last part of each dotted key, or the whole key where two end alike."""
    last = [key.rpartition(".")[2] for key in keys]
    return [name if last.count(name) == 1 else key for name, key in zip(last, keys, strict=True)]


def table_rows(tried: Sequence[Tried], keys: Sequence[str], metric: str) -> tuple[list[str], list[list[str]]]:
    """Header and cells as text, a row a trial."""
    style = column(metric)
    header = ["trial", *keys, style.heading, "state", "steps", "seconds"]
    rows = [
        [
            str(one.number),
            *(value_text(one.values[key]) if key in one.values else "" for key in keys),
            "" if one.metric is None else style.text(one.metric),
            f"{one.state}: {one.reason}" if one.reason else one.state,
            f"{one.steps:,}",
            f"{one.seconds:.0f}",
        ]
        for one in tried
    ]
    return header, rows


def markdown(tried: Sequence[Tried], keys: Sequence[str], metric: str) -> str:
    """The table of all trials as Markdown."""
    header, rows = table_rows(tried, keys, metric)
    return markdown_table(header, rows)


def as_csv(tried: Sequence[Tried], keys: Sequence[str], metric: str) -> str:
    """The same with all digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", *keys, metric, "state", "steps", "seconds", "reason"])
    for one in tried:
        found = "" if one.metric is None else repr(one.metric)
        values = [one.values.get(key, "") for key in keys]
        writer.writerow([one.number, *values, found, one.state, one.steps, one.seconds, one.reason])
    return text.getvalue()


def parallel_coordinates(tried: Sequence[Tried], scales: Sequence[Scale], metric: str, *, best: int | None) -> "Figure":
    """An axis for each key and one for the metric, a line for each trial that has a metric, the best in front."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    shown = [one for one in tried if one.is_shown]
    figure = Figure(figsize=(_WIDTH, 4.6), layout="constrained")
    panel = figure.subplots()
    style = column(metric)
    # The metric's name alone, since its values are of all sizes.
    axes = [*scales, Scale(style.heading)]
    columns = [_Coordinates.of(scale, [one.values[scale.key] for one in shown]) for scale in scales]
    columns.append(_Coordinates.of(axes[-1], [one.metric for one in shown]))
    headings = [*short_keys([scale.key for scale in scales]), style.heading]
    colors = colormaps["viridis"].reversed()
    # Drawn last, a line lies on top.
    for position in sorted(range(len(shown)), key=lambda index: shown[index].number == best):
        one = shown[position]
        heights = [each.heights[position] for each in columns]
        is_best = one.number == best
        panel.plot(
            range(len(axes)),
            heights,
            color=_BEST if is_best else colors(columns[-1].heights[position]),
            linewidth=2.6 if is_best else 1.3,
            linestyle="solid" if one.state == "finished" else (0, (4, 2)),
            alpha=1.0 if is_best else 0.75,
            marker="o",
            markersize=4,
        )
    for place, each in enumerate(columns):
        texts = each.ticks if place < len(scales) else [(height, style.text(value)) for height, value in each.numbers]
        _draw_axis(panel, place, texts)
        # Two rows of headings, where one has no room.
        height = 1.13 if len(axes) > 4 and place % 2 else 1.06
        panel.text(place, height, _short(headings[place]), ha="center", va="bottom", fontsize=10)
    panel.set_xlim(-0.35, len(axes) - 1 + 0.55)
    panel.set_ylim(-0.06, 1.2)
    panel.axis("off")
    _legend(figure, has_best=best is not None, has_stopped=any(one.state != "finished" for one in shown))
    return figure


def against_values(tried: Sequence[Tried], scales: Sequence[Scale], metric: str, *, best: int | None) -> "Figure":
    """A panel for each key: the metric of each trial against its value, trials that ended early hollow."""
    from matplotlib.figure import Figure

    shown = [one for one in tried if one.is_shown]
    style = column(metric)
    num_columns = min(len(scales), 3)
    num_rows = math.ceil(len(scales) / num_columns)
    figure = Figure(figsize=(_WIDTH, 2.7 * num_rows + 0.6), layout="constrained")
    panels = figure.subplots(num_rows, num_columns, sharey=True, squeeze=False).flatten()
    names = short_keys([scale.key for scale in scales])
    for position, (panel, scale) in enumerate(zip(panels, scales, strict=False)):
        for one in shown:
            assert one.metric is not None
            finished, is_best = one.state == "finished", one.number == best
            panel.plot(
                scale.place(one.values[scale.key]),
                one.metric,
                marker="*" if is_best else "o",
                markersize=13 if is_best else 6,
                color=_BEST if is_best else _COLOR,
                markerfacecolor=(_BEST if is_best else _COLOR) if finished else "none",
                linestyle="none",
                zorder=3 if is_best else 2,
            )
        if scale.is_log:
            panel.set_xscale("log")
            _plain_log_ticks(panel, [float(one.values[scale.key]) for one in shown])
        if scale.labels:
            panel.set_xticks(range(len(scale.labels)), [_short(text) for text in scale.labels])
            panel.set_xlim(-0.5, len(scale.labels) - 0.5)
            panel.tick_params(axis="x", labelrotation=30 if max(map(len, scale.labels)) > 8 else 0)
        panel.yaxis.set_major_formatter(lambda value, _: style.text(value))
        panel.set_xlabel(names[position], fontsize=10)
        if position % num_columns == 0:
            panel.set_ylabel(f"{style.heading} ({style.unit})" if style.unit else style.heading, fontsize=10)
        panel.tick_params(labelsize=9)
        panel.grid(alpha=0.25, linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[len(scales) :]:
        panel.remove()
    _legend(figure, has_best=best is not None, has_stopped=any(one.state != "finished" for one in shown), is_line=False)
    return figure


@dataclass(frozen=True)
class _Coordinates:
    """Values of one axis as heights from 0 to 1, and the texts beside it."""

    heights: list[float]
    ticks: list[tuple[float, str]]
    numbers: list[tuple[float, float]]

    @classmethod
    def of(cls, scale: Scale, values: Sequence[Any]) -> "_Coordinates":
        places = [scale.place(value) for value in values]
        if scale.labels:
            most = max(len(scale.labels) - 1, 1)
            ticks = [(number / most, text) for number, text in enumerate(scale.labels)]
            return cls([place / most for place in places], ticks, [])
        logs = [math.log(place) for place in places] if scale.is_log else places
        low, high = min(logs, default=0.0), max(logs, default=1.0)
        width = high - low or 1.0
        heights = [(each - low) / width if high > low else 0.5 for each in logs]
        ends = sorted(zip(heights, places, strict=True))
        numbers = list(dict.fromkeys([ends[0], ends[len(ends) // 2], ends[-1]])) if ends else []
        return cls(heights, [(height, value_text(value)) for height, value in numbers], numbers)


def _draw_axis(panel: "Axes", place: int, ticks: Sequence[tuple[float, str]]) -> None:
    panel.plot([place, place], [0, 1], color="#333333", linewidth=1.0, zorder=0.5)
    # Texts that would lie on each other are left out.
    last = -1.0
    step = max(1, math.ceil(len(ticks) / _MOST_TICKS))
    for height, text in sorted(ticks)[::step]:
        if height - last < 0.05:
            continue
        last = height
        box = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.8}
        panel.text(place + 0.04, height, _short(text), va="center", fontsize=8.5, bbox=box, zorder=4)


def _plain_log_ticks(panel: "Axes", values: Sequence[float]) -> None:
    """Numbers in place of powers of ten, a few of them where the range is within two orders of magnitude."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = min(values, default=1.0), max(values, default=10.0)
    if high / low < 100:
        panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 10 else (1.0, 3.0)))
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panel.xaxis.set_minor_formatter(NullFormatter())


def _legend(figure: "Figure", *, has_best: bool, has_stopped: bool, is_line: bool = True) -> None:
    from matplotlib.lines import Line2D

    handles = []
    if has_best:
        mark = "o" if is_line else "*"
        line: Any = "solid" if is_line else "none"
        handles.append(Line2D([], [], color=_BEST, linestyle=line, marker=mark, linewidth=2.6, label="best"))
    if has_stopped:
        hollow: Any = "full" if is_line else "none"
        dashes: Any = (0, (4, 2)) if is_line else "none"
        handles.append(
            Line2D(
                [],
                [],
                color=_OTHER if is_line else _COLOR,
                linestyle=dashes,
                marker="o",
                fillstyle=hollow,
                label="did not finish",
            )
        )
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=9, frameon=False)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
