from dataclasses import replace
from pathlib import Path

import pytest

from raydistill.search.charts import Scale, against_values, courses, parallel_coordinates, value_text
from raydistill.search.domains import Choice, LogUniform
from raydistill.search.report import as_csv, markdown
from raydistill.search.results import Trial

METHODS = ["finetune", {"name": "kd", "alpha": 0.5}]


def tried(number, rate, method=0, state="finished", metric=0.5):
    return Trial(number, {"rate": rate, "method": METHODS[method]}, state, metric, {}, 0.0, 0, "", Path())


@pytest.fixture
def trials():
    return [
        tried(0, 1e-4),
        tried(1, 1e-2, 1, metric=0.9),
        tried(2, 1e-3, 0, "stopped", 0.6),
        tried(3, 1.0, 0, "failed", None),
    ]


SCALES = [Scale.of("rate", LogUniform(1e-4, 1.0)), Scale.of("method", Choice(tuple(METHODS)))]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.30000000000000004, "0.3"),
        (1e-05, "1e-05"),
        (3, "3"),
        (True, "True"),
        ([0, 3], "[0, 3]"),
        ("sps", "sps"),
        (METHODS[1], "kd (alpha=0.5)"),
        ({"name": "kd"}, "kd"),
        ({"checkpoint": "a"}, "checkpoint=a"),
    ],
)
def test_values_are_short_texts(value, text):
    assert value_text(value) == text


def test_equal_scales_place_numbers_by_value_and_choices_by_order():
    assert Scale("rate").place(3) == 3.0
    assert [SCALES[1].place(method) for method in METHODS] == [0.0, 1.0]


def test_every_trial_with_a_metric_is_a_line_and_the_best_is_drawn_last(trials):
    found = parallel_coordinates(trials, SCALES, "accuracy", best=1)
    (chart,) = found.charts
    assert len(chart.lines) == 3
    assert [y for _, y in chart.lines[-1].points] == [1.0, 1.0, 1.0], "its rate, method and metric are the greatest"
    assert [line.key.look for line in chart.lines] == ["line", "dashed", "bold"]
    # The geometric mean lies in the middle of a logarithmic axis.
    assert sorted(round(line.points[0][1], 6) for line in chart.lines) == [0.0, 0.5, 1.0]
    assert [text for _, text in chart.x.ticks] == ["rate", "method", "accuracy"]
    assert [key.label for key in found.legend] == ["best", "finished", "did not finish"]
    assert [text for _, text in chart.readings[-1].values] == ["90.0%", "0.01", "kd (alpha=0.5)"]


def test_a_single_value_lies_in_the_middle_of_its_axis():
    (line,) = parallel_coordinates([tried(0, 2.0)], [SCALES[0]], "accuracy", best=0).charts[0].lines
    assert [y for _, y in line.points] == [0.5, 0.5]


def test_the_metric_is_drawn_against_each_value(trials):
    rate, method = against_values(trials, SCALES, "accuracy", best=1).charts
    assert [mark.at for mark in rate.marks] == [(1e-4, 0.5), (1e-2, 0.9), (1e-3, 0.6)]
    assert (rate.x.is_log, method.x.is_log) == (True, False)
    assert [text for _, text in method.x.ticks] == ["finetune", "kd (alpha=0.5)"]
    assert [mark.key.look for mark in rate.marks] == ["dot", "star", "ring"]


def test_a_metric_that_is_no_number_has_no_place(trials):
    charts = parallel_coordinates([*trials, tried(4, 0.1, metric=float("nan"))], SCALES, "accuracy", best=1)
    assert len(charts.charts[0].lines) == 3


def test_trials_are_drawn_as_far_as_their_scheduler_was_told(trials):
    told = replace(trials[2], reports=[{"step": 5.0, "metric": 0.4}, {"step": 10.0, "metric": 0.6}])
    assert courses(trials, "accuracy", best=1) is None
    found = courses([*trials[:2], told], "accuracy", best=1)
    assert [[*line.points] for line in found.charts[0].lines] == [[(5.0, 0.4), (10.0, 0.6)]]
    assert found.charts[0].readings[1].heading == "trial 2 at step 10"


def test_tables_have_a_row_a_trial(trials):
    text = markdown(trials, ["rate", "method"], "accuracy")
    assert "| 1 | 0.01 | kd (alpha=0.5) | 90.0% | finished | 0 | 0 |" in text
    assert as_csv(trials, ["rate"], "accuracy").splitlines()[2] == "1,0.01,0.9,finished,0,0.0,"
