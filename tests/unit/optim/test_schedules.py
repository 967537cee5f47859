from functools import partial

import pytest
import torch
from transformers import (
    get_constant_schedule,
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_cosine_with_hard_restarts_schedule_with_warmup,
    get_linear_schedule_with_warmup,
    get_polynomial_decay_schedule_with_warmup,
)

from raydistill.optim.schedules import SCHEDULES, Shape, linear_warmup_decay


def multipliers(num_steps: int, warmup_proportion: float) -> list[float]:
    steps = range(num_steps + 1)
    return [linear_warmup_decay(s, num_steps=num_steps, warmup_proportion=warmup_proportion) for s in steps]


@pytest.mark.parametrize(("num_steps", "proportion", "warmup"), [(100, 0.05, 5), (101, 0.05, 6), (7, 0.5, 4)])
def test_multipliers_equal_the_schedule_of_transformers(num_steps, proportion, warmup):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = get_linear_schedule_with_warmup(optimizer, warmup, num_steps)
    expected = []
    for _ in range(num_steps + 1):
        expected.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert multipliers(num_steps, proportion) == pytest.approx(expected)


def test_the_published_recipe_warms_up_for_538_of_10751_steps():
    found = [linear_warmup_decay(step, num_steps=10751, warmup_proportion=0.05) for step in range(10752)]
    assert (found[0], found.index(1.0), found[-1]) == (0.0, 538, 0.0)


def test_without_warm_up_the_first_step_has_the_whole_rate():
    assert multipliers(4, 0.0) == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])


def test_multipliers_stay_in_zero_to_one_after_the_last_step():
    assert linear_warmup_decay(20, num_steps=10, warmup_proportion=0.1) == 0.0


def test_one_step_of_training_is_defined():
    assert linear_warmup_decay(0, num_steps=1, warmup_proportion=0.0) == 1.0


@pytest.mark.parametrize(("num_steps", "proportion"), [(20, 0.1), (1140, 0.1), (16, 0.25), (9, 0.0)])
def test_the_published_form_equals_ours_where_the_warm_up_is_whole(num_steps, proportion):
    shape = Shape(num_steps, proportion)
    found = [SCHEDULES["linear_published"](step, shape) for step in range(num_steps + 1)]
    assert found == pytest.approx(multipliers(num_steps, proportion), abs=1e-12)


def test_the_published_form_peaks_between_steps_where_the_warm_up_is_not_whole():
    shape = Shape(25, 0.1)
    found = [SCHEDULES["linear_published"](step, shape) for step in range(26)]
    # 2.5 steps of warm-up: steps 2 and 3 are at 0.08 and 0.12 of the training.
    assert found[:4] == pytest.approx([0.0, 0.4, 0.8, 0.88 / 0.9])
    assert multipliers(25, 0.1)[:4] == pytest.approx([0.0, 1 / 3, 2 / 3, 1.0])
    assert max(found) < 1.0


def test_the_schedule_applied_twice_is_squared():
    shape = Shape(20, 0.1)
    assert SCHEDULES["linear_squared"](1, shape) == pytest.approx(0.25)
    assert SCHEDULES["linear_squared"](11, shape) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("name", "made", "options"),
    [
        ("linear", get_linear_schedule_with_warmup, {}),
        ("cosine", get_cosine_schedule_with_warmup, {}),
        ("cosine_with_restarts", get_cosine_with_hard_restarts_schedule_with_warmup, {"num_cycles": 3}),
        ("polynomial", partial(get_polynomial_decay_schedule_with_warmup, lr_end=0.0), {"power": 2.5}),
        ("constant", lambda optimizer, warmup, num_steps: get_constant_schedule(optimizer), {}),
        (
            "constant_with_warmup",
            lambda optimizer, warmup, num_steps: get_constant_schedule_with_warmup(optimizer, warmup),
            {},
        ),
    ],
)
@pytest.mark.parametrize(("num_steps", "proportion", "warmup"), [(40, 0.1, 4), (37, 0.2, 8), (12, 0.0, 0)])
def test_schedules_equal_those_of_transformers(name, made, options, num_steps, proportion, warmup):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = made(optimizer, warmup, num_steps, **options)
    shape = Shape(num_steps, proportion, **options)
    for step in range(num_steps + 1):
        assert SCHEDULES[name](step, shape) == pytest.approx(schedule.get_last_lr()[0], abs=1e-12), step
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("name", SCHEDULES)
def test_multipliers_are_in_zero_to_one_for_the_shortest_trainings(name):
    for num_steps in (1, 2):
        for proportion in (0.0, 0.5):
            shape = Shape(num_steps, proportion)
            assert all(0.0 <= SCHEDULES[name](step, shape) <= 1.0 for step in range(num_steps + 2))
