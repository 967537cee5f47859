"""The forest plot and the table of a comparison."""

import json
from dataclasses import asdict

import pytest

from raydistill.report.contrast import Contender, Contrast
from raydistill.report.forest import forest
from raydistill.report.resampling import Gain, Interval
from raydistill.report.tables import Statistic


def gain(value: float, *, gap: Interval | None = None, p: float = 0.5) -> Gain:
    return Gain(Interval(value, value - 0.02, value + 0.02), Interval(value - 0.7, -0.01, 0.03), p, gap)


HALF = Interval(0.5, 0.2, 1.1)
FOUND = Contrast(
    "accuracy",
    "teacher",
    "alone",
    [
        Contender("teacher", 1, gain(0.9, gap=Interval(1, 1, 1))),
        Contender("alone", 5, gain(0.7, gap=Interval(0, 0, 0))),
        Contender("kd", 5, gain(0.8, gap=HALF, p=0.0004), Statistic.of([800.0]), None, Statistic.of([30.4, 31.4])),
    ],
)


def test_each_model_has_a_bar_from_end_to_end_of_its_interval_below_the_ones_before_it() -> None:
    ((chart,), _) = (one.charts for one in forest(FOUND))
    level, *bars = chart.lines
    figures = [one.gain.figure for one in FOUND.contenders]
    places = (2, 1, 0)
    assert [bar.points for bar in bars] == [
        [(one.low, place), (one.high, place)] for one, place in zip(figures, places, strict=True)
    ]
    assert [point for point, _ in level.points] == [0.7, 0.7]
    assert [mark.at for mark in chart.marks] == [(0.9, 2), (0.7, 1), (0.8, 0)]


def test_names_stand_left_of_every_bar_and_tick() -> None:
    for (chart,) in (one.charts for one in forest(FOUND)):
        ends = [x for line in chart.lines for x, _ in line.points] + [tick for tick, _ in chart.x.ticks]
        assert all(chart.x.place(place) < chart.x.place(min(ends)) - 20 for place, _, _ in chart.labels)


def test_the_share_of_the_gap_is_told_of_students_alone() -> None:
    chart = forest(FOUND)[1].charts[0]
    assert [name for _, _, name in chart.labels] == ["kd"]
    assert chart.lines[-1].points == [(0.2, 0), (1.1, 0)]
    assert chart.readings[0].values[0][1] == "50% [20%, 110%]"


def test_without_a_gap_there_is_no_chart_of_it() -> None:
    contenders = [Contender(one.name, one.num_seeds, gain(one.gain.figure.value)) for one in FOUND.contenders]
    assert len(forest(Contrast("accuracy", "teacher", "alone", contenders))) == 1


def test_the_table_has_gain_test_and_cost_of_students() -> None:
    header, rows = FOUND.rows()
    assert header[3] == "gain on alone in points"
    assert rows[1] == ["alone", "5", "70.0% [68.0%, 72.0%]", "", "", "", "", "", ""]
    assert rows[2][3:] == ["+10.0 [-1.0, +3.0]", "< 0.001", "50% [20%, 110%]", "800", "", "31"]
    assert rows[2][4].order == 0.0004


def test_a_metric_that_is_no_share_has_differences_in_its_own_unit() -> None:
    header, rows = Contrast("perplexity", "teacher", "alone", FOUND.contenders).rows()
    assert header[3] == "gain on alone"
    assert rows[2][3] == "+0.1 [-0.01, +0.03]"


def test_it_comes_back_from_json() -> None:
    assert asdict(Contrast.of(json.loads(json.dumps(asdict(FOUND))))) == asdict(FOUND)
    assert "alone" in FOUND.note
    assert FOUND.contenders[2].gain.figure.value == pytest.approx(0.8)
