"""A forest plot: each model's figure, and the share of the gap that it closes, as a point inside its interval."""

from collections.abc import Callable, Sequence

from raydistill.report.chart import Axis, Chart, Charts, Key, Line, Mark, Reading
from raydistill.report.charts import axis_text
from raydistill.report.columns import column
from raydistill.report.contrast import Contender, Contrast, interval_text, percent
from raydistill.report.resampling import Interval

_NAME_ABOVE = 0.3
"""How far above its bar a name stands, in distances of bars."""
_TEACHER, _ALONE, _OTHER = Key("", 6, "dot"), Key("", "other", "ring"), Key("", 0, "dot")
_LEVEL = Key("", "other", "level")

Row = tuple[str, Interval, Key]


def forest(found: Contrast) -> Charts:
    """The figure of all models, with a line at that without distillation, and which share of the gap students close."""
    style = column(found.metric)
    keys = {found.teacher: _TEACHER, found.alone: _ALONE}
    rows = [(one.name, one.gain.figure, keys.get(one.name, _OTHER)) for one in found.contenders]
    level = next(one.gain.figure.value for one in found.contenders if one.name == found.alone)
    charts = [_chart(style.heading, rows, [level], text=axis_text(style), number=style.text)]
    shares = [(one.name, share, _OTHER) for one in found.contenders if (share := _share(one, found)) is not None]
    if shares:
        charts.append(_chart("gap closed", shares, [0.0, 1.0], text=percent, number=percent))
    return Charts(charts, note=found.note)


def _share(one: Contender, found: Contrast) -> Interval | None:
    return None if one.name in (found.alone, found.teacher) else one.gain.gap_closed


def _chart(
    title: str,
    rows: Sequence[Row],
    levels: Sequence[float],
    *,
    text: Callable[[float], str],
    number: Callable[[float], str],
) -> Chart:
    """Bars from the top, each with its name above it, and upright lines at the levels."""
    last = len(rows) - 1
    values = [value for _, one, _ in rows for value in (one.low, one.high)]
    x = Axis.of([*values, *levels], title, text=text, is_log=False)
    y = Axis("", -0.6, last + 0.8, [(place, "") for place in range(len(rows))])
    placed = [(last - place, *row) for place, row in enumerate(rows)]
    return Chart(
        title,
        x,
        y,
        lines=[
            *(Line(_LEVEL, [(level, y.low), (level, y.high)]) for level in levels),
            *(Line(Key("", key.color), [(one.low, place), (one.high, place)]) for place, _, one, key in placed),
        ],
        marks=[Mark(key, (one.value, place)) for place, _, one, key in placed],
        labels=[(x.low, place + _NAME_ABOVE, name) for place, name, _, _ in placed],
        readings=[
            Reading(one.value, place, name, [(Key(title, key.color, key.look), interval_text(one, number))])
            for place, name, one, key in placed
        ],
    )
