"""What an optimizer's name in a job file stands for."""

from typing import get_args

import pytest
import torch
from pydantic import ValidationError

from raydistill.config.errors import error_lines
from raydistill.config.training import OptimizerConfig
from raydistill.optim.optimizers import CLIP_PER_TENSOR, OPTIMIZERS, make_optimizer
from raydistill.optim.schedules import SCHEDULES


@pytest.mark.parametrize(("key", "known"), [("name", OPTIMIZERS), ("schedule", SCHEDULES)])
def test_job_files_name_all_that_there_are(key, known):
    assert set(get_args(OptimizerConfig.model_fields[key].annotation)) == set(known)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_gets_its_settings_and_each_groups_decay(name):
    decayed, other = (torch.zeros(1, requires_grad=True) for _ in range(2))
    groups = [{"params": [decayed], "weight_decay": 0.3}, {"params": [other], "weight_decay": 0.0}]
    made = make_optimizer(name, groups, betas=(0.7, 0.8), epsilon=1e-3, max_grad_norm=2.0)
    assert type(made) is OPTIMIZERS[name]
    assert [group["weight_decay"] for group in made.param_groups] == [0.3, 0.0]
    for group in made.param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (0.0, (0.7, 0.8), 1e-3)
        assert group.get("max_grad_norm") == (2.0 if name in CLIP_PER_TENSOR else None)


def test_an_option_of_another_schedule_is_refused_in_one_line():
    with pytest.raises(ValidationError) as caught:
        OptimizerConfig.model_validate({"schedule": "cosine", "schedule_cycles": 3})
    assert error_lines(caught.value) == [
        "schedule_cycles is 3, which only schedule: cosine_with_restarts reads, but schedule is 'cosine'; "
        "choose that one or leave schedule_cycles out"
    ]


def test_options_go_with_their_own_schedules():
    OptimizerConfig(schedule="polynomial", schedule_power=2.0)
    OptimizerConfig(schedule="cosine_with_restarts", schedule_cycles=3)


def test_an_unknown_optimizer_is_answered_with_the_choices():
    with pytest.raises(ValidationError) as caught:
        OptimizerConfig.model_validate({"name": "lamb"})
    [line] = error_lines(caught.value)
    for name in OPTIMIZERS:
        assert name in line


def test_adamw_in_one_kernel_steps_as_the_plain_one():
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(size, generator=generator, dtype=torch.float64) for size in ((7, 5), (3,), (1001,))]
    ours, plain = ([torch.nn.Parameter(one.clone()) for one in start] for _ in range(2))
    betas, decay = (0.9, 0.98), {"weight_decay": 0.1}
    optimizers = [
        make_optimizer("adamw", [{"params": ours, **decay}], betas=betas, epsilon=1e-6, max_grad_norm=1.0),
        torch.optim.AdamW(plain, lr=0.0, betas=betas, eps=1e-6, fused=False, **decay),
    ]
    assert optimizers[0].param_groups[0]["fused"]
    for step in range(5):
        gradients = [torch.randn(one.shape, generator=generator, dtype=torch.float64) for one in start]
        for parameters, optimizer in zip((ours, plain), optimizers, strict=True):
            optimizer.param_groups[0]["lr"] = 0.01 * (step + 1)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-14)
