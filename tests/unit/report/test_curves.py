import statistics

import pytest

from raydistill.report.curves import SPEED, TOKENS, Training, curves, metrics, spent, terms


def training(stage: str, values: dict[int, float], **assignment: object) -> Training:
    return Training(stage, assignment, [{"step": step, "train/loss": value} for step, value in values.items()])


def test_a_history_gives_each_metric_its_own_steps():
    history = [{"step": 0, "eval/loss": 9.0}, {"step": 2, "train/loss": 5.0}, {"step": 2, "eval/loss": 8.0}]
    run = Training("distill", {}, history)
    assert run.points("eval/loss") == {0: 9.0, 2: 8.0}
    assert run.points("train/loss") == {2: 5.0}
    assert run.points("train/cos") == {}


def test_seeds_make_one_curve_of_means_and_spreads():
    runs = [training("distill", {1: 4.0, 2: 3.0}, seed=1), training("distill", {1: 5.0, 2: 3.5}, seed=2)]
    (curve,) = curves(runs, "train/loss")
    assert curve.label == "distill"
    assert curve.steps == [1, 2]
    assert [statistic.mean for statistic in curve.statistics] == [4.5, 3.25]
    assert curve.statistics[0].spread == pytest.approx(statistics.stdev([4.0, 5.0]))
    assert not curve.is_uneven


def test_a_run_that_stopped_early_leaves_the_mean_to_the_steps_that_all_have():
    runs = [training("distill", {1: 4.0}, seed=1), training("distill", {1: 5.0, 2: 3.5}, seed=2)]
    (curve,) = curves(runs, "train/loss")
    assert curve.steps == [1]
    assert curve.is_uneven


def test_a_group_keeps_its_place_in_metrics_that_another_lacks():
    bare = Training("teacher", {}, [{"step": 1, "train/mlm": 2.0}])
    runs = [bare, training("distill", {1: 4.0}, t=1), training("distill", {1: 4.0}, t=2)]
    assert [(curve.label, curve.position) for curve in curves(runs, "train/loss")] == [
        ("distill (t=1)", 1),
        ("distill (t=2)", 2),
    ]


def test_terms_and_metrics_are_named_once_and_the_sum_comes_first():
    first = Training("a", {}, [{"step": 0, "eval/loss": 1.0, "eval/accuracy": 0.1}, {"step": 1, "train/ce": 1.0}])
    second = Training("b", {}, [{"step": 1, "train/mlm": 1.0, "train/loss": 2.0, "train/ce": 1.0, "learning_rate": 1}])
    assert terms([first, second]) == ["loss", "ce", "mlm"]
    assert metrics([first, second]) == ["loss", "accuracy"]


def test_the_seconds_of_a_training_follow_from_the_speed_of_each_part():
    history = [
        {"step": 0, "eval/loss": 1.0},
        {"step": 10, SPEED: 100.0, TOKENS: 1000},
        {"step": 10, "eval/loss": 0.5},
        {"step": 15, SPEED: 50.0, TOKENS: 1500},
    ]
    assert spent(history) == {"steps": 15.0, "tokens": 1500, "seconds": 20.0}
    assert spent(history[:1]) == {}
