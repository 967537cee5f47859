"""Charts of a report: terms of the loss, a metric with other models' results as levels, quality against its price."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from raydistill.report.against import Against
from raydistill.report.chart import Axis, Band, Chart, Charts, Key, Line, Look, Mark, Point, Reading, plain, read_along
from raydistill.report.columns import Column, column
from raydistill.report.curves import TASK, TRAIN, VALIDATION, Curve, Training, curves, terms
from raydistill.report.tables import Group, Statistic

_NUM_COLORS = 7
_LOOKS: tuple[Look, ...] = ("line", "dotted")
"""The curves' strokes, by how often all colours are used up."""
_MOST_POINTS = 24_000
"""Points of all charts of a group together, which keeps the page small."""
_MOST_NAMES = 12
"""Marks beside which numbers have room."""
_STEP = "optimizer step"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Level:
    """A model's result, drawn as a horizontal line."""

    label: str
    value: Statistic


def loss_terms(trainings: Sequence[Training]) -> Charts:
    """A chart for each term of the loss, at least one: training rows drawn through, validation rows dashed."""
    names = terms(trainings)
    found = [(name, curves(trainings, TRAIN + name), curves(trainings, VALIDATION + name)) for name in names]
    room = _room(curve for _, trained, validation in found for curve in (*trained, *validation))
    charts = [
        _along_steps(name, [*trained, *validation], column(""), len(trained), room)
        for name, trained, validation in found
    ]
    legend = [_key(curve) for curve in curves(trainings, TRAIN + "loss")]
    legend += [Key("validation rows", 6, "dashed")] if any(validation for _, _, validation in found) else []
    note = "Each against the optimizer step; the first is their weighted sum." + _band_note(trainings)
    return Charts(charts, legend, note)


def metric(trainings: Sequence[Training], name: str, levels: Sequence[Level]) -> Charts:
    """One of the task's metrics on validation rows against the step, and the results of other models as level lines."""
    style, found = column(name), curves(trainings, TASK + name)
    chart = _along_steps(style.heading, found, style, len(found), _room(found), levels)
    note = (
        "Curves: measured during training on at most training.eval_rows validation rows. Level lines: figures of the "
        "tables, over all rows that the evaluation reads." + _band_note(trainings)
    )
    return Charts([chart], [*map(_key, found), *_legend(chart.levels, style)], note)


def against(found: Against, levels: Sequence[Level]) -> Charts:
    """A figure of models against a key of their stages' matrix, and the results of other models as level lines."""
    style = column(found.figure)
    keys = [_colored(line.label, line.position) for line in found.lines]
    values: dict[float, list[tuple[Key, str]]] = {}
    strokes, marks = [], []
    for line, key in zip(found.lines, keys, strict=True):
        strokes.append(Line(key, [(value, one.mean) for value, one in line.points.items()]))
        strokes += [Line(_thin(key), _bar(value, one)) for value, one in line.points.items() if one.spread]
        marks += [Mark(Key("", key.color, "dot"), (value, one.mean)) for value, one in line.points.items()]
        for value, one in line.points.items():
            values.setdefault(value, []).append((key, one.text(style.text)))
    drawn = _levels(levels)
    heights = [y for stroke in strokes for _, y in stroke.points] + [value for _, value in drawn]
    chart = Chart(
        f"{style.heading} against {found.short_key}",
        Axis.of(found.values, found.short_key, is_log=False),
        Axis.of(heights, _unit(style), text=axis_text(style)),
        lines=strokes,
        marks=marks,
        levels=drawn,
        readings=read_along({value: [*one, *_told(drawn, style)] for value, one in values.items()}, plain),
    )
    note = f"Over all rows that the evaluation reads. Level lines are models without {found.key}."
    return Charts([chart], [*keys, *_legend(drawn, style)], note if drawn else "")


def quality_cost(
    groups: Sequence[Group], metric: str, *, greater_is_better: bool, roles: Mapping[str, str], teacher: Group | None
) -> Charts | None:
    """Quality against the milliseconds of one row, or against size where no time was measured; None without either.

    ``roles`` has ``student``, ``teacher``, ``export`` or ``other`` by the name of a row.
    """
    cost = next((name for name in ("latency_ms", "size_mb") if any(name in row.figures for row in groups)), "")
    shown = [row for row in groups if cost in row.figures and metric in row.figures]
    shown = [row for row in shown if math.isfinite(row.figures[metric].mean)]
    if len(shown) < 2:
        return None
    quality, price = column(metric), column(cost)
    keys = {
        "student": Key("", 0, "dot"),
        "teacher": Key("", 6, "dot"),
        "export": Key("", 0, "ring"),
        "other": Key("", "other", "ring"),
    }
    has_corner = teacher is not None and teacher in shown
    corner = (teacher.figures[cost].mean, teacher.figures[metric].mean) if has_corner and teacher else None
    spreads = [
        Line(_thin(keys[roles[row.name]]), _bar(row.figures[cost].mean, row.figures[metric]))
        for row in shown
        if row.figures[metric].spread
    ]
    shown = sorted(shown, key=lambda row: row.figures[cost].mean)
    names = [str(number) if len(shown) <= _MOST_NAMES else "" for number in range(1, len(shown) + 1)]
    heights = [row.figures[metric].mean for row in shown] + [y for line in spreads for _, y in line.points]
    chart = Chart(
        f"{quality.heading} against {price.heading}",
        Axis.of([0.0, 1.1 * max(row.figures[cost].mean for row in shown)], price.heading, is_log=False, margin=0.0),
        Axis.of(heights, _unit(quality), text=axis_text(quality), margin=0.12),
        lines=spreads,
        marks=[
            Mark(keys[roles[row.name]], (row.figures[cost].mean, row.figures[metric].mean), name)
            for row, name in zip(shown, names, strict=True)
        ],
        corner=corner,
        is_upper=greater_is_better,
        readings=[
            Reading(
                row.figures[cost].mean,
                row.figures[metric].mean,
                row.name,
                [
                    (replace(keys[roles[row.name]], label=style.heading), row.figures[name].text(style.text))
                    for name, style in ((metric, quality), (cost, price))
                ],
            )
            for row in shown
        ],
    )
    note = ""
    if corner is not None and teacher is not None:
        better = "above" if greater_is_better else "below"
        gain = "faster" if cost == "latency_ms" else "smaller"
        note = f"In the shaded corner, left of {teacher.name} and {better} it, a model is {gain} and no worse."
    legend = [
        replace(keys[roles[row.name]], label=f"{name} {row.name}".strip())
        for row, name in zip(shown, names, strict=True)
    ]
    return Charts([chart], legend, note)


def _along_steps(
    title: str, found: Sequence[Curve], style: Column, num_trained: int, room: int, levels: Sequence[Level] = ()
) -> Chart:
    """Curves against the step, those after the first ``num_trained`` dashed: they are of validation rows."""
    lines, bands = [], []
    values: dict[float, list[tuple[Key, str]]] = {}
    for number, curve in enumerate(found):
        key = _key(curve, is_validation=number >= num_trained)
        if curve.is_uneven:
            lines += [Line(_thin(key), _thinned([*points.items()], room)) for points in curve.runs]
        points = _thinned([*zip(curve.steps, curve.statistics, strict=True)], room)
        lines.append(Line(key, [(step, one.mean) for step, one in points]))
        if len(curve.runs) > 1:
            ends = [(step, [y for _, y in _bar(step, one)]) for step, one in points]
            bands.append(Band(key, [(step, low, high) for step, (low, high) in ends]))
        for step, one in points:
            values.setdefault(step, []).append((key, one.text(style.text)))
    drawn = _levels(levels)
    heights = [y for line in lines for _, y in line.points] + [value for _, value in drawn]
    steps = [x for line in lines for x, _ in line.points]
    heights += [value for band in bands for _, low, high in band.points for value in (low, high)]
    return Chart(
        title,
        Axis.of(steps, style.heading and _STEP, is_log=False, whole=True, margin=0.0),
        Axis.of(heights, style.unit, text=axis_text(style)),
        lines=lines,
        bands=bands,
        levels=drawn,
        readings=read_along(
            {step: [*one, *_told(drawn, style)] for step, one in values.items()},
            lambda step: f"step {step:,.0f}",
        ),
    )


def _key(curve: Curve, *, is_validation: bool = False) -> Key:
    label = curve.label if len(curve.runs) == 1 else f"{curve.label}, mean of {len(curve.runs)}"
    key = _colored(label, curve.position)
    return Key(f"{label}, validation rows", key.color, "dashed") if is_validation else key


def _colored(label: str, position: int) -> Key:
    return Key(label, position % _NUM_COLORS, _LOOKS[position // _NUM_COLORS % len(_LOOKS)])


def _thin(key: Key) -> Key:
    return Key("", key.color, "thin")


def _bar(place: float, value: Statistic) -> list[Point]:
    spread = value.spread or 0.0
    return [(place, value.mean - spread), (place, value.mean + spread)]


def _levels(levels: Sequence[Level]) -> list[tuple[Key, float]]:
    """Of the levels that an axis has a place for the key and the value; colours go backwards, as curves' go on."""
    shown = [level for level in levels if math.isfinite(level.value.mean)]
    colors = [(_NUM_COLORS - 1 - number) % _NUM_COLORS for number in range(len(shown))]
    return [(Key(level.label, color, "level"), level.value.mean) for level, color in zip(shown, colors, strict=True)]


def _told(drawn: Sequence[tuple[Key, float]], style: Column) -> list[tuple[Key, str]]:
    """What a reading says of levels."""
    return [(key, style.text(value)) for key, value in drawn]


def _legend(drawn: Sequence[tuple[Key, float]], style: Column) -> list[Key]:
    return [replace(key, label=f"{key.label}: {text}") for key, text in _told(drawn, style)]


def axis_text(style: Column) -> Callable[[float], str]:
    """How an axis shows the values of a figure."""
    return (lambda value: f"{100 * value:.4g}%") if style.is_share else plain


def _unit(style: Column) -> str:
    return f"{style.heading} ({style.unit})" if style.unit else style.heading


def _band_note(trainings: Sequence[Training]) -> str:
    several = any(len(curve.runs) > 1 for curve in curves(trainings, TRAIN + "loss"))
    return " A curve of several runs is their mean, in a band of one sample standard deviation." if several else ""


def _room(found: Iterable[Curve]) -> int:
    """Points of each curve, so that all of them are few enough."""
    count = sum(1 + len(curve.runs) * curve.is_uneven for curve in found)
    return max(20, min(300, _MOST_POINTS // max(1, count)))


def _thinned(points: Sequence[_T], room: int) -> Sequence[_T]:
    """At most so many points, evenly chosen, the first and the last among them."""
    if len(points) <= room:
        return points
    return [points[round(number * (len(points) - 1) / (room - 1))] for number in range(room)]
