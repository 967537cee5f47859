"""Pictures of what trials of a search found: parallel coordinates, and the metric against each value."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raydistill.names import drawn
from raydistill.report.columns import Column, column, significant
from raydistill.report.grouping import short_keys
from raydistill.search.domains import Choice, Domain, LogUniform, is_number
from raydistill.search.results import Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 8.0
"""Inches, as other pictures have."""
_COLOR, _BEST, _OTHER = "#0072B2", "#D55E00", "#777777"
_BEST_LINE: dict[str, Any] = {"color": _BEST, "linewidth": 2.6, "marker": "o"}
_EARLY_LINE: dict[str, Any] = {"color": _OTHER, "linestyle": (0, (4, 2)), "marker": "o"}
_BEST_MARK: dict[str, Any] = {"color": _BEST, "linestyle": "none", "marker": "*"}
_EARLY_MARK: dict[str, Any] = {"color": _COLOR, "linestyle": "none", "marker": "o", "markerfacecolor": "none"}
_MOST_TICKS = 8
_LONGEST = 24
_Text = Callable[[Any], str]


@dataclass(frozen=True)
class Scale:
    """How the values of one key lie on an axis."""

    key: str
    labels: tuple[str, ...] = ()
    """Texts of the values in order, where they are choices; then the value's place is its number."""
    is_log: bool = False

    @classmethod
    def of(cls, key: str, domain: Domain) -> "Scale":
        """The scale of a searched key."""
        values: Sequence[Any] = domain.values if isinstance(domain, Choice) else ()
        # Numbers in order tell more than in the file's order.
        values = sorted(values) if all(map(is_number, values)) else values
        return cls(key, tuple(dict.fromkeys(map(value_text, values))), isinstance(domain, LogUniform))

    def place(self, value: Any) -> float:
        """Where a value lies."""
        return float(self.labels.index(value_text(value))) if self.labels else float(value)

    def heights(self, values: Sequence[Any]) -> list[float]:
        """Where values lie on an axis from 0 to 1, which ends with the first and last choice or the extreme values."""
        places = [self.place(value) for value in values]
        if self.labels:
            return [place / max(len(self.labels) - 1, 1) for place in places]
        places = [math.log(place) for place in places] if self.is_log else places
        low, high = min(places), max(places)
        return [(place - low) / (high - low) if high > low else 0.5 for place in places]

    def ticks(self, values: Sequence[Any], text: _Text) -> list[tuple[float, str]]:
        """Heights with their texts: all choices, or the least of the values, the middle one and the greatest."""
        if self.labels:
            return [(number / max(len(self.labels) - 1, 1), label) for number, label in enumerate(self.labels)]
        ordered = sorted(zip(self.heights(values), map(float, values), strict=True))
        return [(height, text(value)) for height, value in (ordered[0], ordered[len(ordered) // 2], ordered[-1])]


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


def parallel_coordinates(
    trials: Iterable[Trial], scales: Sequence[Scale], metric: str, *, best: int | None
) -> "Figure":
    """An axis for each key and one for the metric, a line for each trial that has a metric, the best in front.

    One trial at least has a metric.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    # Drawn last, a line lies on top.
    shown = sorted((trial for trial in trials if trial.is_measured), key=lambda trial: trial.number == best)
    style, colors = column(metric), colormaps["viridis"].reversed()
    figure = Figure(figsize=(_WIDTH, 4.6), layout="constrained")
    panel = figure.subplots()
    axes: list[tuple[Scale, list[Any], _Text]] = [
        (scale, [trial.overrides[scale.key] for trial in shown], value_text) for scale in scales
    ]
    # The metric's name alone, since its values are of all sizes.
    axes.append((Scale(style.heading), [trial.metric for trial in shown], style.text))
    for trial, *heights in zip(shown, *(scale.heights(values) for scale, values, _ in axes), strict=True):
        look = {"color": colors(heights[-1]), "linewidth": 1.3, "alpha": 0.75, "marker": "o"}
        look |= {} if trial.state == "finished" else {"linestyle": _EARLY_LINE["linestyle"]}
        panel.plot(range(len(axes)), heights, markersize=4, **(_BEST_LINE if trial.number == best else look))
    headings = [*short_keys(scale.key for scale in scales).values(), style.heading]
    for place, ((scale, values, text), heading) in enumerate(zip(axes, headings, strict=True)):
        _draw_axis(panel, place, scale.ticks(values, text))
        # Two rows of headings, where one has no room.
        height = 1.13 if len(axes) > 4 and place % 2 else 1.06
        panel.text(place, height, _short(heading), ha="center", va="bottom", fontsize=10)
    panel.set_xlim(-0.35, len(axes) - 1 + 0.55)
    panel.set_ylim(-0.06, 1.2)
    panel.axis("off")
    _legend(figure, shown, best, _BEST_LINE, _EARLY_LINE)
    return figure


def against_values(trials: Iterable[Trial], scales: Sequence[Scale], metric: str, *, best: int | None) -> "Figure":
    """A panel for each key: the metric of each trial against its value, trials that ended early hollow.

    One trial at least has a metric.
    """
    from matplotlib.figure import Figure

    shown = [trial for trial in trials if trial.is_measured]
    style = column(metric)
    num_columns = min(len(scales), 3)
    num_rows = math.ceil(len(scales) / num_columns)
    figure = Figure(figsize=(_WIDTH, 2.7 * num_rows + 0.6), layout="constrained")
    panels = figure.subplots(num_rows, num_columns, sharey=True, squeeze=False)
    names = short_keys(scale.key for scale in scales)
    for panel, scale in zip(panels.flatten(), scales, strict=False):
        _draw_against(panel, shown, scale, style, best)
        panel.set_xlabel(drawn(names[scale.key]), fontsize=10)
    for panel in panels[:, 0]:
        panel.set_ylabel(f"{style.heading} ({style.unit})" if style.unit else style.heading, fontsize=10)
    for panel in panels.flatten()[len(scales) :]:
        panel.remove()
    _legend(figure, shown, best, _BEST_MARK, _EARLY_MARK)
    return figure


def _draw_against(panel: "Axes", shown: Sequence[Trial], scale: Scale, style: Column, best: int | None) -> None:
    for trial in shown:
        assert trial.metric is not None
        look = _EARLY_MARK if trial.state != "finished" else {**_EARLY_MARK, "markerfacecolor": _COLOR}
        look = {**_BEST_MARK, "markersize": 13, "zorder": 3} if trial.number == best else look
        panel.plot(scale.place(trial.overrides[scale.key]), trial.metric, **look)
    if scale.is_log:
        panel.set_xscale("log")
        _plain_log_ticks(panel, [float(trial.overrides[scale.key]) for trial in shown])
    if scale.labels:
        panel.set_xticks(range(len(scale.labels)), [_short(text) for text in scale.labels])
        panel.set_xlim(-0.5, len(scale.labels) - 0.5)
        panel.tick_params(axis="x", labelrotation=30 if max(map(len, scale.labels)) > 8 else 0)
    panel.yaxis.set_major_formatter(lambda value, _: style.text(value))
    panel.tick_params(labelsize=9)
    panel.grid(alpha=0.25, linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)


def _draw_axis(panel: "Axes", place: int, ticks: Sequence[tuple[float, str]]) -> None:
    panel.plot([place, place], [0, 1], color="#333333", linewidth=1.0, zorder=0.5)
    # Texts that would lie on each other are left out.
    last = -1.0
    for height, text in sorted(ticks)[:: max(1, math.ceil(len(ticks) / _MOST_TICKS))]:
        if height - last < 0.05:
            continue
        last = height
        box = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.8}
        panel.text(place + 0.04, height, _short(text), va="center", fontsize=8.5, bbox=box, zorder=4)


def _plain_log_ticks(panel: "Axes", values: Sequence[float]) -> None:
    """Numbers in place of powers of ten, a few of them where the range is within two orders of magnitude."""
    from matplotlib.ticker import LogLocator, NullFormatter

    orders = max(values) / min(values)
    if orders < 100:
        panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if orders < 10 else (1.0, 3.0)))
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panel.xaxis.set_minor_formatter(NullFormatter())


def _legend(
    figure: "Figure", shown: Sequence[Trial], best: int | None, of_best: dict[str, Any], of_early: dict[str, Any]
) -> None:
    """Which line or mark is the best trial, and which those that did not finish, as far as there are such."""
    from matplotlib.lines import Line2D

    handles = [] if best is None else [Line2D([], [], label="best", **of_best)]
    if any(trial.state != "finished" for trial in shown):
        handles.append(Line2D([], [], label="did not finish", **of_early))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=9, frameon=False)


def _short(text: str) -> str:
    return drawn(text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…")
