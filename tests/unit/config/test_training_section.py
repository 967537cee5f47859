"""Keys of the training loop that make no sense together."""

import pytest
from pydantic import ValidationError

from raydistill.config.errors import error_lines
from raydistill.config.sections import TrainingConfig


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (
            {"early_stopping_threshold": 0.1},
            "early_stopping_threshold is 0.1, which does nothing without early_stopping_patience; give both or neither",
        ),
        (
            {"max_steps": 5, "stop_after_steps": 6},
            "stop_after_steps is 6, beyond max_steps, 5; lower it or leave it",
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
            "stop_after_epochs is 11, beyond num_epochs, 10; lower it or leave it",
        ),
        (
            {"stop_after_epochs": 2, "stop_after_steps": 6},
            "stop_after_epochs is 2 beside stop_after_steps, 6; give one of them",
        ),
        (
            {"load_best_model_at_end": True, "stop_after_epochs": 1},
            "load_best_model_at_end is True, but the only evaluation is the one at the end; set eval_steps lower",
        ),
        (
            {"load_best_model_at_end": True, "num_epochs": 1},
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
    assert TrainingConfig.model_validate(keys).last_step(num_steps, steps_per_epoch=10) == last


@pytest.mark.parametrize("key", ["saving_criterion", "early_stopping_threshold"])
def test_bounds_are_finite(key):
    with pytest.raises(ValidationError, match="finite"):
        TrainingConfig.model_validate({key: float("nan"), "early_stopping_patience": 1})
