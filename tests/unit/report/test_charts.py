from itertools import pairwise

import pytest

from raydistill.report.chart import Axis, Chart
from raydistill.report.charts import Level, loss_terms, metric, quality_cost
from raydistill.report.curves import Training
from raydistill.report.tables import Entry, Statistic, group

TERMS = {"loss": 9.0, "ce": 7.0, "cos": 0.4}


def training(stage: str = "distill", *, terms=TERMS, steps=(2, 4, 6), factor: float = 1.0, **assignment: object):
    history: list[dict[str, float]] = [{"step": 0, "eval/accuracy": 0.0, "eval/perplexity": 20_000.0 * factor}]
    for step in steps:
        history.append({"step": step, **{f"train/{name}": factor * value / step for name, value in terms.items()}})
    history.append({"step": steps[-1], "eval/accuracy": 0.1 * factor, "eval/perplexity": 500.0 * factor})
    history.append({"step": steps[-1], **{f"validation/{name}": 2.0 for name in terms}})
    return Training(stage, assignment, history)


def lines(chart: Chart) -> dict[str, list[tuple[float, float]]]:
    return {line.key.label: [*line.points] for line in chart.lines if line.key.look != "thin"}


def test_each_term_has_a_chart_with_the_histories_values():
    found = loss_terms([training()])
    assert [chart.title for chart in found.charts] == list(TERMS)
    for chart, value in zip(found.charts, TERMS.values(), strict=True):
        assert lines(chart)["distill"] == [(step, value / step) for step in (2, 4, 6)]
    assert [key.label for key in found.legend] == ["distill", "validation rows"]


def test_validation_terms_are_dashed_in_the_colour_of_their_training():
    trained, validation = loss_terms([training()]).charts[0].lines
    assert [*validation.points] == [(6, 2.0)]
    assert (trained.key.look, validation.key.look) == ("line", "dashed")
    assert trained.key.color == validation.key.color


def test_a_term_that_one_training_lacks_has_only_the_others_curve_in_its_own_colour():
    first, second = loss_terms([training("alone", terms={"loss": 5.0}), training()]).charts[:2]
    colors = {line.key.label: line.key.color for line in first.lines}
    assert colors["alone"] != colors["distill"]
    assert list(lines(second)) == ["distill", "distill, validation rows"]
    assert second.lines[0].key.color == colors["distill"]


def test_seeds_are_a_mean_line_in_a_band_of_one_spread():
    runs = [training(seed=seed, factor=factor) for seed, factor in enumerate((1.0, 2.0, 3.0))]
    found = loss_terms(runs)
    chart = found.charts[0]
    assert lines(chart)["distill, mean of 3"] == [(step, pytest.approx(18 / step)) for step in (2, 4, 6)]
    assert chart.bands[0].points[0] == (2, pytest.approx(9 / 2), pytest.approx(27 / 2))
    assert "in a band of one sample standard deviation" in found.note
    first = chart.readings[0]
    assert (first.heading, first.values[0][1]) == ("step 2", "9 ± 4.5")


def test_runs_with_steps_of_their_own_are_shown_to_their_end():
    chart = loss_terms([training(seed=1, steps=(2, 4)), training(seed=2, steps=(2, 4, 6))]).charts[0]
    assert max(step for line in chart.lines for step, _ in line.points) == 6
    assert lines(chart)["distill, mean of 2"][-1][0] == 4


def test_a_metric_is_drawn_with_the_results_of_others_as_level_lines():
    levels = [Level("teacher", Statistic(0.28, None, 1)), Level("alone", Statistic(0.12, 0.01, 3))]
    found = metric([training()], "accuracy", levels)
    (chart,) = found.charts
    assert lines(chart) == {"distill": [(0, 0.0), (6, 0.1)]}
    assert [(key.label, value) for key, value in chart.levels] == [("teacher", 0.28), ("alone", 0.12)]
    assert [key.label for key in found.legend] == ["distill", "teacher: 28.0%", "alone: 12.0%"]
    assert [(key.label, text) for key, text in chart.readings[-1].values] == [
        ("distill", "10.0%"),
        ("teacher", "28.0%"),
        ("alone", "12.0%"),
    ]
    assert "10%" in [text for _, text in chart.y.ticks]


@pytest.mark.parametrize(("name", "is_log"), [("perplexity", True), ("accuracy", False)])
def test_only_values_that_differ_by_orders_of_magnitude_get_a_logarithmic_axis(name, is_log):
    assert metric([training()], name, []).charts[0].y.is_log == is_log


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0, 100], [0, 20, 40, 60, 80, 100]),
        ([0.1, 0.3], [0.1, 0.15, 0.2, 0.25, 0.3]),
        ([5, 5], [4.6, 4.8, 5, 5.2, 5.4]),
        ([1, 1000], [1, 3, 10, 30, 100, 300, 1000]),
        ([], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ([float("nan"), 1.0, float("inf"), 2.0], [1, 1.2, 1.4, 1.6, 1.8, 2]),
    ],
)
def test_an_axis_has_round_ticks_and_takes_numbers_alone(values, ticks):
    axis = Axis.of(values, "x")
    assert [value for value, _ in axis.ticks] == pytest.approx(ticks)
    assert all(0 <= axis.place(value) <= 100 for value in values if -1e300 < value < 1e300)


def test_steps_are_whole_numbers():
    assert [value for value, _ in Axis.of([0, 3], "step", whole=True, margin=0).ticks] == [0, 1, 2, 3]


def test_a_path_leaves_out_what_is_no_number_and_a_single_point_is_a_dot():
    chart = Chart("c", Axis("", 0, 10, []), Axis("", 0, 1, []))
    assert chart.path([(0, 0.0), (5, float("nan")), (10, 1.0)]) == "M0.00 100.00L100.00 0.00"
    assert chart.path([(5, 0.5)]) == "M50.00 50.00L50.00 50.00"
    assert chart.path([(5, float("inf"))]) == ""


ROWS = [
    Entry("teacher", {}, {"accuracy": 0.9, "latency_ms": 4.0}),
    Entry("student", {"seed": 1}, {"accuracy": 0.8, "latency_ms": 2.0}),
    Entry("student", {"seed": 2}, {"accuracy": 0.84, "latency_ms": 2.0}),
]
ROLES = {"teacher": "teacher", "student": "student"}


def test_quality_lies_against_latency_with_the_corner_of_the_teacher():
    rows = group(ROWS)
    found = quality_cost(rows, "accuracy", greater_is_better=True, roles=ROLES, teacher=rows[0])
    assert found is not None
    (chart,) = found.charts
    assert [mark.at for mark in chart.marks] == [(2.0, pytest.approx(0.82)), (4.0, 0.9)]
    assert chart.corner == (4.0, 0.9)
    box = chart.corner_box()
    assert (box["x"], box["y"]) == (0, 0)
    assert (box["width"], box["height"]) == (chart.x.place(4.0), 100 - chart.y.place(0.9))
    assert [key.label for key in found.legend] == ["1 student", "2 teacher"]
    assert [text for _, text in chart.readings[0].values] == ["82.0% ± 2.8%", "2 ± 0"]


def test_of_a_loss_the_corner_lies_below():
    rows = group([Entry(name, {}, {"loss": 2.0 + at, "latency_ms": 1.0 + at}) for at, name in enumerate(ROLES)])
    found = quality_cost(rows, "loss", greater_is_better=False, roles=ROLES, teacher=rows[0])
    assert found is not None
    box = found.charts[0].corner_box()
    assert box["y"] + box["height"] == 100
    assert "left of teacher and below it" in found.note


@pytest.mark.parametrize("rows", [ROWS[:1], [Entry(name, {}, {"accuracy": 0.5}) for name in ROLES]])
def test_there_is_no_such_chart_of_a_single_model_or_without_size_and_time(rows):
    assert quality_cost(group(rows), "accuracy", greater_is_better=True, roles=ROLES, teacher=None) is None


def test_numbers_of_near_marks_stand_apart():
    entries = [Entry(name, {}, {"accuracy": 0.8, "latency_ms": 1.0}) for name in "abc"]
    found = quality_cost(
        group(entries), "accuracy", greater_is_better=True, roles=dict.fromkeys("abc", "other"), teacher=None
    )
    assert found is not None
    heights = sorted(place["text_y"] for place in found.charts[0].named_marks())
    assert min(second - first for first, second in pairwise(heights)) >= 6
