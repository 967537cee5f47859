"""BertAdam against the published run and the formula."""

import pytest
import torch
from torch import Tensor

from raydistill.optim.bert_adam import BertAdam
from raydistill.optim.schedules import SCHEDULES, Shape

PUBLISHED = {
    "linear_published": {
        1: (1, 0.3),
        2: (0.957405, 0.257505),
        3: (0.858216, 0.158502),
        4: (0.755295, 0.055947),
        20: (-0.091596, 0.086048),
    },
    "linear_squared": {
        1: (1, 0.3),
        2: (0.978703, 0.278753),
        3: (0.879506, 0.17975),
        4: (0.782294, 0.082675),
        20: (0.206931, -0.073813),
    },
}
"""The first weight and the bias after a step, run with Pea-KD's own BertAdam in float32, printed to 6 digits."""


def tensors(*, dtype: torch.dtype, count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = [(4, 3), (5,), ()][:count]
    return [torch.randn(size, generator=generator, dtype=dtype).requires_grad_() for size in sizes]


def gradients_of(parameters: list[Tensor], *, step: int, scale: float) -> list[Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return [scale * torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]


@pytest.mark.parametrize("schedule", PUBLISHED)
def test_the_published_run_is_repeated_to_its_printed_digits(schedule: str) -> None:
    weight, bias = torch.tensor([1.0, -2.0, 0.5], requires_grad=True), torch.tensor(0.3, requires_grad=True)
    groups = [{"params": [weight], "weight_decay": 0.01}, {"params": [bias], "weight_decay": 0.0}]
    optimizer = BertAdam(groups, lr=0.0)
    shape = Shape(num_steps=20, warmup_proportion=0.1)
    found = {}
    for step in range(20):
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * SCHEDULES[schedule](step, shape)
        optimizer.zero_grad()
        (weight * torch.tensor([3.0, 1.0, -2.0]) + bias).square().sum().backward()
        optimizer.step()
        found[step + 1] = (round(weight[0].item(), 6), round(bias.item(), 6))
    assert {step: found[step] for step in PUBLISHED[schedule]} == PUBLISHED[schedule]


@pytest.mark.parametrize("scale", [0.01, 10.0])
def test_every_step_is_the_formulas(scale: float) -> None:
    parameters = tensors(dtype=torch.float64)
    expected = [parameter.detach().clone() for parameter in parameters]
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in expected]
    optimizer = BertAdam(parameters, lr=0.1, betas=(0.8, 0.95), eps=1e-3, max_grad_norm=0.5, weight_decay=0.2)
    for step in range(5):
        gradients = gradients_of(parameters, step=step, scale=scale)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
        for index, gradient in enumerate(gradients):
            clipped = gradient * min(1.0, 0.5 / (gradient.norm().item() + 1e-6))
            m, v = moments[index]
            moments[index] = m, v = 0.8 * m + 0.2 * clipped, 0.95 * v + 0.05 * clipped**2
            expected[index] = expected[index] - 0.1 * (m / (v.sqrt() + 1e-3) + 0.2 * expected[index])
        for parameter, value in zip(parameters, expected, strict=True):
            torch.testing.assert_close(parameter.detach(), value, rtol=1e-12, atol=1e-12)


def test_a_large_gradient_of_one_tensor_leaves_the_others_as_they_are() -> None:
    small, large = (torch.zeros(2, requires_grad=True) for _ in range(2))
    small.grad, large.grad = torch.tensor([0.3, 0.4]), torch.tensor([300.0, 400.0])
    BertAdam([small, large], lr=0.1, max_grad_norm=1.0).step()
    assert torch.equal(small.grad, torch.tensor([0.3, 0.4]))
    torch.testing.assert_close(large.grad, torch.tensor([0.6, 0.8]))


def test_a_tensor_without_a_gradient_is_neither_stepped_nor_decayed() -> None:
    still, moved = (torch.ones(2, requires_grad=True) for _ in range(2))
    moved.grad = torch.zeros(2)
    optimizer = BertAdam([still, moved], lr=0.1, weight_decay=0.5)
    optimizer.step()
    assert torch.equal(still.detach(), torch.ones(2))
    torch.testing.assert_close(moved.detach(), torch.full((2,), 0.95))
    assert still not in optimizer.state


def test_its_closure_runs_with_gradients_and_its_value_is_returned() -> None:
    parameter = torch.ones(1, requires_grad=True)
    optimizer = BertAdam([parameter], lr=0.1)

    def closure() -> float:
        loss = parameter.square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 1.0
    assert parameter.item() < 1.0
