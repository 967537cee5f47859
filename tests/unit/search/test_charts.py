from pathlib import Path

import pytest

from raydistill.search.charts import Scale, against_values, parallel_coordinates, value_text
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
    panel = parallel_coordinates(trials, SCALES, "accuracy", best=1).axes[0]
    lines = [line for line in panel.lines if len(line.get_xdata()) == 3]
    assert len(lines) == 3
    assert [*lines[-1].get_ydata()] == [1.0, 1.0, 1.0], "greatest rate, last method, greatest metric"
    assert lines[-1].get_linewidth() > lines[0].get_linewidth()
    # The geometric mean lies in the middle of a logarithmic axis.
    assert sorted(round(line.get_ydata()[0], 6) for line in lines) == [0.0, 0.5, 1.0]


def test_a_single_value_lies_in_the_middle_of_its_axis():
    panel = parallel_coordinates([tried(0, 2.0)], [SCALES[0]], "accuracy", best=0).axes[0]
    assert [*panel.lines[0].get_ydata()] == [0.5, 0.5]


def test_the_metric_is_drawn_against_each_value(trials):
    rate, method = against_values(trials, SCALES, "accuracy", best=1).axes
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in rate.lines] == [
        (1e-4, 0.5),
        (1e-2, 0.9),
        (1e-3, 0.6),
    ]
    assert rate.get_xscale() == "log"
    assert [text.get_text() for text in method.get_xticklabels()] == ["finetune", "kd (alpha=0.5)"]
    assert [line.get_markerfacecolor() == "none" for line in rate.lines] == [False, False, True], "stopped is hollow"
    assert [line.get_marker() for line in rate.lines] == ["o", "*", "o"]


def test_a_metric_that_is_no_number_has_no_place(trials):
    panel = parallel_coordinates([*trials, tried(4, 0.1, metric=float("nan"))], SCALES, "accuracy", best=1).axes[0]
    assert len([line for line in panel.lines if len(line.get_xdata()) == 3]) == 3


def test_tables_have_a_row_a_trial(trials):
    text = markdown(trials, ["rate", "method"], "accuracy")
    assert "| 1 | 0.01 | kd (alpha=0.5) | 90.0% | finished | 0 | 0 |" in text
    assert as_csv(trials, ["rate"], "accuracy").splitlines()[2] == "1,0.01,0.9,finished,0,0.0,"
