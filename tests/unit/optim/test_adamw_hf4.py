"""The AdamW of transformers 4 against its formula, which PyTorch's differs from."""

import math

import pytest
import torch

from raydistill.optim.adamw_hf4 import AdamWHF4

SETTINGS = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-2, "weight_decay": 0.2}


def run(optimizer_type: type, *, num_steps: int = 5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.randn(size, generator=generator, dtype=torch.float64) for size in ((4, 3), (5,))]
    optimizer = optimizer_type([parameter.requires_grad_() for parameter in parameters], **SETTINGS)
    for _ in range(num_steps):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


class Formula:
    """The update written out for one tensor at a time."""

    def __init__(self, parameters: list[torch.Tensor], **settings: float) -> None:
        assert settings == SETTINGS
        self.parameters, self.count = parameters, 0
        self.moments = [[torch.zeros_like(p), torch.zeros_like(p)] for p in parameters]

    @torch.no_grad()
    def step(self) -> None:
        self.count += 1
        size = 0.1 * math.sqrt(1 - 0.95**self.count) / (1 - 0.8**self.count)
        for parameter, pair in zip(self.parameters, self.moments, strict=True):
            assert parameter.grad is not None
            pair[:] = [0.8 * pair[0] + 0.2 * parameter.grad, 0.95 * pair[1] + 0.05 * parameter.grad**2]
            updated = parameter - size * pair[0] / (pair[1].sqrt() + 1e-2)
            parameter.copy_(updated - 0.1 * 0.2 * updated)


def test_every_step_is_the_formulas() -> None:
    for found, expected in zip(run(AdamWHF4), run(Formula), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_pytorchs_adamw_takes_other_steps() -> None:
    for found, other in zip(run(AdamWHF4), run(torch.optim.AdamW), strict=True):
        assert (found - other).abs().max() > 1e-3


def test_a_tensor_that_joins_later_is_corrected_by_its_own_count() -> None:
    early, late = (torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer = AdamWHF4([early, late], lr=0.1, eps=1e-12)
    early.grad = torch.ones(1, dtype=torch.float64)
    for _ in range(3):
        optimizer.step()
    late.grad = torch.ones(1, dtype=torch.float64)
    optimizer.step()
    assert (early.item(), late.item()) == pytest.approx((-0.4, -0.1), abs=1e-9)
    assert [optimizer.state[p]["step"].item() for p in (early, late)] == [4, 1]


def test_the_gradient_is_left_as_it_is() -> None:
    parameter = torch.zeros(2, requires_grad=True)
    parameter.grad = torch.tensor([300.0, 400.0])
    AdamWHF4([parameter], lr=0.1).step()
    assert torch.equal(parameter.grad, torch.tensor([300.0, 400.0]))
