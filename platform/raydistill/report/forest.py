"""Forest plots: each model's figure, and the share of the gap that it closes, as a point inside its interval."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from raydistill.report.chart import Axis, Chart, Charts, Key, Line, Mark, Reading
from raydistill.report.charts import axis_text
from raydistill.report.columns import column
from raydistill.report.contrast import Contender, Contrast, interval_text, percent
from raydistill.report.resampling import Interval

_FOR_NAMES = 0.4
"""Room for names left of the bars, as a share of the bars' own."""
_TEACHER, _ALONE, _OTHER = Key("", 6, "dot"), Key("", "other", "ring"), Key("", 0, "dot")
_LEVEL = Key("", "other", "level")

Row = tuple[str, Interval, Key]


def forest(found: Contrast) -> list[Charts]:
    """The figure of all models, with a line at that without distillation, and which share of the gap students close."""
    style = column(found.metric)
    keys = {found.teacher: _TEACHER, found.alone: _ALONE}
    rows = [(one.name, one.gain.figure, keys.get(one.name, _OTHER)) for one in found.contenders]
    level = next(one.gain.figure.value for one in found.contenders if one.name == found.alone)
    charts = [_chart(style.heading, rows, [level], text=axis_text(style), number=style.text)]
    shares = [(one.name, share, _OTHER) for one in found.contenders if (share := _share(one, found)) is not None]
    if shares:
        charts.append(_chart("gap closed", shares, [0.0, 1.0], text=percent, number=percent))
    return [Charts([chart]) for chart in charts]


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
    """Bars from the top, with their names left of them, and upright lines at the levels."""
    last = len(rows) - 1
    bars = Axis.of(
        [*(value for _, one, _ in rows for value in (one.low, one.high)), *levels], title, text=text, is_log=False
    )
    x = replace(bars, low=bars.low - _FOR_NAMES * (bars.high - bars.low))
    y = Axis("", -0.6, last + 0.6, [(place, "") for place in range(len(rows))])
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
        labels=[(x.low, place, name) for place, name, _, _ in placed],
        readings=[
            Reading(one.value, place, name, [(Key(title, key.color, key.look), interval_text(one, number))])
            for place, name, one, key in placed
        ],
    )
