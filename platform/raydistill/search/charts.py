"""Charts of what trials of a search found: parallel coordinates, and the metric against each value and the step."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raydistill.report.chart import Axis, Chart, Charts, Key, Line, Look, Mark, Reading
from raydistill.report.charts import axis_text
from raydistill.report.columns import Column, column, significant
from raydistill.report.grouping import short_keys
from raydistill.search.domains import Choice, Domain, LogUniform, is_number
from raydistill.search.results import Trial

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

    def axis(self, values: Sequence[Any], label: str) -> Axis:
        """The axis of these values."""
        if self.labels:
            return Axis.of_choices([_short(text) for text in self.labels], label)
        return Axis.of(map(float, values), label, is_log=self.is_log, margin=0.06)


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


def parallel_coordinates(trials: Iterable[Trial], scales: Sequence[Scale], metric: str, *, best: int | None) -> Charts:
    """An axis for each key and one for the metric, a line for each trial that has a metric, the best in front.

    One trial at least has a metric.
    """
    # Drawn last, a line lies on top.
    shown = sorted((trial for trial in trials if trial.is_measured), key=lambda trial: trial.number == best)
    style = column(metric)
    axes: list[tuple[Scale, list[Any], _Text]] = [
        (scale, [trial.overrides[scale.key] for trial in shown], value_text) for scale in scales
    ]
    # The metric's name alone, since its values are of all sizes.
    axes.append((Scale(style.heading), [trial.metric for trial in shown], style.text))
    headings = [*short_keys(scale.key for scale in scales).values(), style.heading]
    lines, readings = [], []
    for trial, *heights in zip(shown, *(scale.heights(values) for scale, values, _ in axes), strict=True):
        key = _key(trial, best, "line")
        lines.append(Line(key, [*enumerate(heights)]))
        told = _told(trial, headings, [scale.key for scale in scales], key, style)
        readings += [
            Reading(float(place), height, f"trial {trial.number}", told) for place, height in enumerate(heights)
        ]
    labels = [
        (float(place), height, _short(text))
        for place, (scale, values, text_of) in enumerate(axes)
        for height, text in _apart(scale.ticks(values, text_of))
    ]
    ends = [(float(place), _short(heading)) for place, heading in enumerate(headings)]
    # On the right the last axis's values have their room.
    across = Axis("", -0.1, len(axes) - 1 + 0.35, ends)
    chart = Chart(
        "Every trial as a line", across, Axis("", -0.03, 1.03, []), lines=lines, labels=labels, readings=readings
    )
    return Charts([chart], _legend(shown, best, "line"), "From left to right its values, at the right end its metric.")


def against_values(trials: Iterable[Trial], scales: Sequence[Scale], metric: str, *, best: int | None) -> Charts:
    """A chart for each key: the metric of each trial against its value, trials that ended early hollow.

    One trial at least has a metric.
    """
    shown = [trial for trial in trials if trial.is_measured]
    names = short_keys(scale.key for scale in scales)
    style = column(metric)
    return Charts([_against(shown, scale, names, style, best) for scale in scales], _legend(shown, best, "dot"))


def _against(shown: Sequence[Trial], scale: Scale, names: Mapping[str, str], style: Column, best: int | None) -> Chart:
    marks, readings = [], []
    for trial in shown:
        assert trial.metric is not None
        at, key = (scale.place(trial.overrides[scale.key]), trial.metric), _key(trial, best, "dot")
        marks.append(Mark(key, at))
        readings.append(Reading(*at, f"trial {trial.number}", _told(trial, [*names.values()], [*names], key, style)))
    heights = [trial.metric for trial in shown if trial.metric is not None]
    return Chart(
        f"{style.heading} against {names[scale.key]}",
        scale.axis([trial.overrides[scale.key] for trial in shown], names[scale.key]),
        Axis.of(heights, style.unit, text=axis_text(style), margin=0.08),
        marks=marks,
        readings=sorted(readings, key=lambda one: one.x),
    )


def courses(trials: Iterable[Trial], metric: str, *, best: int | None) -> Charts | None:
    """The metric of each trial against the step, as its scheduler was told; None where nothing was told."""
    style, lines, readings = column(metric), [], []
    for trial in trials:
        points = [(report["step"], report["metric"]) for report in trial.reports if math.isfinite(report["metric"])]
        if points:
            key = _key(trial, best, "line")
            lines.append((trial.number == best, Line(key, points)))
            told = Key(style.heading, key.color, key.look)
            readings += [
                Reading(step, value, f"trial {trial.number} at step {step:,.0f}", [(told, style.text(value))])
                for step, value in points
            ]
    if not lines:
        return None
    drawn = [line for _, line in sorted(lines, key=lambda one: one[0])]
    heights = [y for line in drawn for _, y in line.points]
    chart = Chart(
        f"{style.heading} while the trials ran",
        Axis.of([x for line in drawn for x, _ in line.points], "optimizer step", is_log=False, whole=True, margin=0.02),
        Axis.of(heights, style.unit, text=axis_text(style)),
        lines=drawn,
        marks=[Mark(Key("", line.key.color, "dot"), line.points[-1]) for line in drawn],
        readings=sorted(readings, key=lambda one: one.x),
    )
    return Charts([chart])


def _key(trial: Trial, best: int | None, kind: Look) -> Key:
    """How a trial is drawn: the best stands out, one that did not finish is dashed or hollow."""
    if trial.number == best:
        return Key("best", "best", "bold" if kind == "line" else "star")
    early: Look = "dashed" if kind == "line" else "ring"
    return Key("finished", 0, kind) if trial.state == "finished" else Key("did not finish", "other", early)


def _legend(shown: Sequence[Trial], best: int | None, kind: Look) -> list[Key]:
    return list(dict.fromkeys(_key(trial, best, kind) for trial in sorted(shown, key=lambda one: one.number != best)))


def _told(trial: Trial, headings: Sequence[str], keys: Sequence[str], key: Key, style: Column) -> list[tuple[Key, str]]:
    """The metric of a trial and its values."""
    assert trial.metric is not None
    values = zip(headings, keys, strict=False)
    return [
        (Key(style.heading, key.color, key.look), style.text(trial.metric)),
        *((Key(heading, key.color, key.look), value_text(trial.overrides[name])) for heading, name in values),
    ]


def _apart(ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Those whose texts do not lie on each other."""
    found: list[tuple[float, str]] = []
    for height, text in sorted(ticks)[:: max(1, math.ceil(len(ticks) / _MOST_TICKS))]:
        if not found or height - found[-1][0] >= 0.06:
            found.append((height, text))
    return found


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
