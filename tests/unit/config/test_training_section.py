"""Keys of the training loop that make no sense together."""

import math

import pytest
from pydantic import ValidationError

from raydistill.config.errors import error_lines
from raydistill.config.training import TrainingConfig


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (
            {"early_stopping_threshold": 0.1},
            "early_stopping_threshold is 0.1, which does nothing without early_stopping_patience; give both or neither",
        ),
        (
            {"max_steps": 5, "stop_after_steps": 6},
            "stop_after_steps is 6, beyond max_steps, 5; lower it or leave it out",
        ),
        (
            {"load_best_model_at_end": True, "max_steps": 50, "eval_steps": 50},
            "load_best_model_at_end is True, but the only evaluation is the one at the end; set eval_steps lower",
        ),
        (
            {"early_stopping_patience": 2, "stop_after_steps": 10, "eval_steps": 50},
            "early_stopping_patience is 2, but the only evaluation is the one at the end; set eval_steps lower",
        ),
        (
            {"num_epochs": 10, "stop_after_epochs": 11},
            "stop_after_epochs is 11, beyond num_epochs, 10; lower it or leave it out",
        ),
        (
            {"stop_after_epochs": 2, "stop_after_steps": 6},
            "stop_after_epochs is 2 beside stop_after_steps, 6; give one of them",
        ),
        (
            {"load_best_model_at_end": True, "stop_after_epochs": 1, "eval_steps": None},
            "load_best_model_at_end is True, but the only evaluation is the one at the end; set eval_steps lower",
        ),
        (
            {"load_best_model_at_end": True, "num_epochs": 1, "eval_steps": None},
            "load_best_model_at_end is True, but the only evaluation is the one at the end; set eval_steps lower",
        ),
    ],
)
def test_keys_that_contradict_each_other_are_refused_in_one_line(keys, line):
    with pytest.raises(ValidationError) as caught:
        TrainingConfig.model_validate(keys)
    assert error_lines(caught.value) == [line]


@pytest.mark.parametrize(
    "keys",
    [
        {"load_best_model_at_end": True},
        {"load_best_model_at_end": True, "num_epochs": 1},
        {"load_best_model_at_end": True, "eval_steps": None},
        {"load_best_model_at_end": True, "eval_steps": 49, "max_steps": 50},
        {"early_stopping_patience": 1, "early_stopping_threshold": 0.1},
        {"stop_after_steps": 5, "max_steps": 5},
        {"saving_criterion": -0.5},
    ],
)
def test_keys_that_go_together_are_taken(keys):
    assert TrainingConfig.model_validate(keys).model_dump(include=set(keys)) == keys


@pytest.mark.parametrize(
    ("keys", "num_steps", "last"),
    [
        ({}, 30, 30),
        ({"max_steps": 12}, 12, 12),
        ({"stop_after_steps": 7}, 30, 7),
        ({"stop_after_epochs": 2}, 30, 20),
        # The schedule ends before these epochs do.
        ({"stop_after_epochs": 2, "max_steps": 12}, 12, 12),
    ],
)
def test_training_ends_at_the_first_of_its_limits(keys, num_steps, last):
    training = TrainingConfig.model_validate(keys)
    assert (training.num_steps(10), training.last_step(10)) == (num_steps, last)


@pytest.mark.parametrize(
    ("keys", "steps"),
    [
        ({"eval_steps": None}, 50),
        ({"eval_steps": 7}, 7),
        ({"eval_steps": 7.0}, 7),
        ({"eval_steps": 0.25}, 38),
        # A share of the steps that training takes, not of its schedule.
        ({"eval_steps": 0.25, "stop_after_steps": 8}, 2),
        ({"eval_steps": 0.25, "max_steps": 20}, 5),
        ({"max_steps": 3}, 1),
    ],
)
def test_evaluations_come_after_steps_a_share_of_all_steps_or_an_epoch(keys, steps):
    assert TrainingConfig.model_validate(keys).steps_between_evaluations(50) == steps


@pytest.mark.parametrize("steps_per_epoch", [1, 4, 5, 8, 23, 100, 12_345])
def test_a_training_makes_about_ten_evaluations(steps_per_epoch):
    training = TrainingConfig(num_epochs=2)
    num_evaluations = math.ceil(2 * steps_per_epoch / training.steps_between_evaluations(steps_per_epoch))
    assert min(2 * steps_per_epoch, 8) <= num_evaluations <= 12


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (0, "eval_steps is 0; a number of steps is whole and positive, a fraction of them lies between 0 and 1"),
        (2.5, "eval_steps is 2.5; a number of steps is whole and positive, a fraction of them lies between 0 and 1"),
        ("epoch", "eval_steps is 'epoch'; write a number of steps, or a fraction of them below 1, such as 0.1"),
    ],
)
def test_what_is_neither_steps_nor_a_share_is_refused(value, problem):
    with pytest.raises(ValidationError) as caught:
        TrainingConfig.model_validate({"eval_steps": value})
    assert error_lines(caught.value) == [problem]


@pytest.mark.parametrize("key", ["saving_criterion", "early_stopping_threshold"])
def test_bounds_are_finite(key):
    with pytest.raises(ValidationError, match="finite"):
        TrainingConfig.model_validate({key: float("nan"), "early_stopping_patience": 1})


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"max_steps": 5000}, "max_steps is 5,000, but 3 epochs have 24 steps, after which training ends"),
        ({"max_steps": 9, "num_epochs": 1}, "max_steps is 9, but 1 epoch has 8 steps, after which training ends"),
        ({"max_steps": 24}, ""),
        ({}, ""),
    ],
)
def test_a_limit_that_the_epochs_never_reach_is_told_with_what_happens(keys, told):
    training = TrainingConfig.model_validate(keys)
    assert training.unreached_limit(8).partition(";")[0] == told
    assert bool(told) is (training.num_steps(8) < (training.max_steps or 0))


def test_rows_in_the_corpus_order_are_not_grouped_by_length():
    with pytest.raises(ValueError, match="shuffle is false, but group_by_length orders rows anew"):
        TrainingConfig(shuffle=False)
    assert TrainingConfig(shuffle=False, group_by_length=False).model_dump()["shuffle"] is False


def test_a_training_that_shuffles_is_written_as_before_there_was_the_key():
    assert "shuffle" not in TrainingConfig().model_dump()
