"""Pictures of trainings: each term of the loss, and a validation metric with other models' results as level lines."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydistill.names import drawn
from raydistill.report.against import Against
from raydistill.report.columns import Column, column
from raydistill.report.curves import TASK, TRAIN, VALIDATION, Curve, Training, curves, terms
from raydistill.report.tables import Statistic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_DPI = 150
_WIDTH = 8.0
"""Inches; 1,200 pixels."""
_PANEL_HEIGHT = 2.1
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's palette, which the colour-blind can tell apart, without its yellow, which is faint on white."""
_DASHES = ("solid", (0, (1, 1)), (0, (5, 1, 1, 1)))
"""The curves' strokes, by how often all colours are used up."""
_VALIDATION_DASHES = (0, (4, 2))
_LEVEL_DASHES = ((0, (6, 3)), (0, (2, 2)), (0, (8, 3, 2, 3)), (0, (1, 3)))
_LEVEL_COLORS = ("#333333", "#777777")
_MOST_MARKERS = 25
_LONG_LABEL = 30
_WIDE_RANGE = 30
"""Largest over smallest value beyond which an axis is logarithmic."""


@dataclass(frozen=True)
class Level:
    """A model's result, drawn as a horizontal line."""

    label: str
    value: Statistic


def loss_terms(trainings: Sequence[Training]) -> "Figure":
    """A panel for each term of the loss, at least one: training rows drawn through, validation rows dashed."""
    shown = terms(trainings)
    num_columns = min(len(shown), 2 if len(shown) in (2, 4) else 3)
    num_rows = math.ceil(len(shown) / num_columns)
    figure = _figure(height=_PANEL_HEIGHT * num_rows + 0.8)
    panels = figure.subplots(num_rows, num_columns, sharex=True, squeeze=False).flatten()
    for panel, name in zip(panels, shown, strict=False):
        trained, validation = curves(trainings, TRAIN + name), curves(trainings, VALIDATION + name)
        for curve in trained:
            _draw(panel, curve)
        for curve in validation:
            _draw(panel, curve, is_validation=True)
        _finish(panel, _values([*trained, *validation]))
        panel.set_title(drawn(name), fontsize=11)
        panel.tick_params(labelbottom=True)
    for panel in panels[len(shown) :]:
        panel.remove()
    for panel in panels[(num_rows - 1) * num_columns : len(shown)]:
        panel.set_xlabel("optimizer step", fontsize=10)
    _legend(figure, panels[: len(shown)], [_key("training rows", "solid"), _key("validation rows", _VALIDATION_DASHES)])
    return figure


def metric(trainings: Sequence[Training], name: str, levels: Sequence[Level]) -> "Figure":
    """One of the task's metrics on validation rows against the step, and the results of other models as level lines."""
    figure = _figure(height=4.8)
    panel = figure.subplots()
    style = column(name)
    found = curves(trainings, TASK + name)
    for curve in found:
        _draw(panel, curve)
    for position, level in enumerate(levels):
        _draw_level(panel, level, position, style)
    _finish(panel, [*_values(found), *(level.value.mean for level in levels)])
    if style.is_share:
        panel.yaxis.set_major_formatter(lambda value, _: style.text(value))
    panel.set_xlabel("optimizer step", fontsize=10)
    panel.set_ylabel(drawn(f"{style.heading} ({style.unit})" if style.unit else style.heading), fontsize=10)
    _legend(figure, [panel])
    return figure


def against(found: Against, levels: Sequence[Level]) -> "Figure":
    """A figure of models against a key of their stages' matrix, and the results of other models as level lines."""
    figure = _figure(height=4.8)
    panel = figure.subplots()
    style = column(found.figure)
    for line in found.lines:
        color = _COLORS[line.position % len(_COLORS)]
        dashes: Any = _DASHES[line.position // len(_COLORS) % len(_DASHES)]
        means = [point.mean for point in line.points.values()]
        panel.errorbar(
            list(line.points),
            means,
            yerr=[point.spread or 0.0 for point in line.points.values()],
            color=color,
            linestyle=dashes,
            linewidth=1.6,
            marker="o",
            markersize=4,
            capsize=3,
            label=drawn(line.label),
        )
    for position, level in enumerate(levels):
        _draw_level(panel, level, position, style)
    values = [point.mean for line in found.lines for point in line.points.values()]
    _finish(panel, [*values, *(level.value.mean for level in levels)], whole_steps=False)
    if style.is_share:
        panel.yaxis.set_major_formatter(lambda value, _: style.text(value))
    panel.set_xlabel(drawn(found.short_key), fontsize=10)
    panel.set_ylabel(drawn(f"{style.heading} ({style.unit})" if style.unit else style.heading), fontsize=10)
    _legend(figure, [panel])
    return figure


def save(figure: "Figure", path: Path) -> None:
    """Write a picture as PNG, 1,200 pixels wide."""
    figure.savefig(path, dpi=_DPI, format="png")


def _figure(*, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(_WIDTH, height), layout="constrained")


def _draw(panel: "Axes", curve: Curve, *, is_validation: bool = False) -> None:
    """The mean over the runs and a band of one spread; runs with steps of their own are thin lines besides."""
    color = _COLORS[curve.position % len(_COLORS)]
    dashes: Any = _DASHES[curve.position // len(_COLORS) % len(_DASHES)]
    if is_validation:
        dashes = _VALIDATION_DASHES
    if curve.is_uneven:
        for points in curve.runs:
            panel.plot(list(points), list(points.values()), color=color, linestyle=dashes, linewidth=0.8, alpha=0.5)
    label = curve.label if len(curve.runs) == 1 else f"{curve.label}, mean of {len(curve.runs)}"
    statistics = curve.statistics
    means = [statistic.mean for statistic in statistics]
    markers = {"marker": "o", "markersize": 3} if len(means) <= _MOST_MARKERS else {}
    panel.plot(
        curve.steps,
        means,
        color=color,
        linestyle=dashes,
        linewidth=1.6,
        label="" if is_validation else drawn(label),
        **markers,  # type: ignore[arg-type]
    )
    if len(curve.runs) > 1:
        spreads = [statistic.spread or 0.0 for statistic in statistics]
        low = [mean - spread for mean, spread in zip(means, spreads, strict=True)]
        high = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
        panel.fill_between(curve.steps, low, high, color=color, alpha=0.18, linewidth=0)


def _draw_level(panel: "Axes", level: Level, position: int, style: Column) -> None:
    color = _LEVEL_COLORS[position % len(_LEVEL_COLORS)]
    dashes: Any = _LEVEL_DASHES[position % len(_LEVEL_DASHES)]
    mean, spread = level.value.mean, level.value.spread
    label = f"{level.label}: {style.text(mean)}"
    if spread:
        label += f" ± {style.text(spread)}"
        panel.axhspan(mean - spread, mean + spread, color=color, alpha=0.12, linewidth=0)
    panel.axhline(mean, color=color, linestyle=dashes, linewidth=1.4, label=drawn(label))


def _values(drawn: Iterable[Curve]) -> list[float]:
    return [value for curve in drawn for points in curve.runs for value in points.values()]


def _finish(panel: "Axes", values: Sequence[float], *, whole_steps: bool = True) -> None:
    """Scale, grid and ticks for the values that are drawn, over whole numbers or any."""
    from matplotlib.ticker import MaxNLocator

    if _is_wide(values):
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    panel.xaxis.set_major_locator(MaxNLocator(nbins=5 if whole_steps else 10, integer=whole_steps))
    panel.grid(color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.tick_params(labelsize=9)
    panel.spines[["top", "right"]].set_visible(False)


def _is_wide(values: Sequence[float]) -> bool:
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) > _WIDE_RANGE * min(finite)


def _key(label: str, dashes: Any) -> "Line2D":
    """A legend's line for what a stroke means, whatever its colour."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color="#777777", linestyle=dashes, linewidth=1.6, label=label)


def _legend(figure: "Figure", panels: Iterable["Axes"], keys: Sequence["Line2D"] = ()) -> None:
    """One legend for all panels, below them, where it covers no curve."""
    handles: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    handles |= {str(key.get_label()): key for key in keys}
    num_columns = 2 if any(len(label) > _LONG_LABEL for label in handles) else 3
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=num_columns, fontsize=10, frameon=False)
