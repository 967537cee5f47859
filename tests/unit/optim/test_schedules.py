import pytest
import torch
from transformers import get_linear_schedule_with_warmup

from raydistill.optim.schedules import linear_warmup_decay


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
