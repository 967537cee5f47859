"""Adapters under DeepSpeed train at their own rate, at every ZeRO stage, in a group of one process."""

import pytest
import torch

from raydistill.methods import dfa
from raydistill.optim.optimizers import make_optimizer
from raydistill.optim.parameter_groups import parameter_groups
from raydistill.training.deepspeed_config import deepspeed_config
from raydistill.training.engine import Engine
from toys.classifiers import toy_labelled_batch
from toys.integration import PARTS, student_of, unlabelled

RATE = 1e-3
ADAPTER_RATE = 2e-2


pytestmark = pytest.mark.usefixtures("one_rank")


def step(*, zero_stage: int, parity: bool) -> dict[str, float]:
    """How far a step at half the rate moves each trained parameter: the first of Adam is as long as the rate."""
    student, *teachers = [student_of(part, 2, dtype=torch.float32) for part in (("a", "b", "c", "d", "e"), *PARTS)]
    config = dfa.Config(adapter_learning_rate=ADAPTER_RATE, parity_optimizer_groups=parity)
    method = dfa.Method(config, student, teachers)
    optimizer = make_optimizer(
        "adamw",
        parameter_groups(method, weight_decay=0.0, learning_rate=RATE),
        betas=(0.9, 0.999),
        epsilon=1e-12,
        max_grad_norm=0.0,
    )
    settings = deepspeed_config(zero_stage=zero_stage, precision="fp32", num_micro_batches=1, max_grad_norm=0.0)
    before = {name: p.detach().clone() for name, p in method.named_parameters() if p.requires_grad}
    engine = Engine(method, settings, optimizer)
    batch = unlabelled(toy_labelled_batch("classes"))
    engine.step([batch], [method.denominators(batch)], learning_rate=RATE / 2)
    moved = {name: (engine._masters.gather(name, None) - start).abs().max().item() for name, start in before.items()}
    engine.close()
    return moved


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_adapters_follow_the_schedule_at_their_own_rate(zero_stage: int) -> None:
    moved = step(zero_stage=zero_stage, parity=False)
    for name, change in moved.items():
        expected = ADAPTER_RATE / 2 if name.startswith("adapters.") else RATE / 2
        assert change == pytest.approx(expected, rel=1e-2), name


def test_with_parity_groups_only_biases_of_adapters_train_at_the_students_rate() -> None:
    moved = step(zero_stage=0, parity=True)
    of_adapters = {name: change for name, change in moved.items() if name.startswith("adapters.")}
    assert of_adapters
    for name, change in of_adapters.items():
        assert name.endswith("bias")
        assert change == pytest.approx(RATE / 2, rel=1e-2)
