import math

import pytest
import torch
import torch.distributed as dist
from torch import nn

from raydistill.training.finite import NonFiniteLossError, check_finite

BAD = {"loss": torch.tensor(math.nan), "kd": torch.tensor(math.nan), "ce": torch.tensor(1.0)}


class Columns:
    """What is read of a batch."""

    def __init__(self, **columns):
        self.columns = columns

    def __getitem__(self, name):
        return self.columns[name]


@pytest.fixture(autouse=True)
def group():
    # Another test of this process may have left a group of one.
    is_new = not dist.is_initialized()
    if is_new:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    if is_new:
        dist.destroy_process_group()


def refusal(step, *, batches=(), teachers=(), again=lambda: None):
    with pytest.raises(NonFiniteLossError) as caught:
        check_finite(BAD, step, batches=batches, teachers=teachers, again=again)
    return str(caught.value)


def teacher(value):
    made = nn.Linear(2, 2)
    nn.init.constant_(made.weight, value)
    return made


def test_finite_terms_pass():
    check_finite({"loss": torch.tensor(1.0)}, 3, batches=[], teachers=[teacher(math.nan)], again=pytest.fail)


def test_a_loss_that_diverges_is_told_to_take_smaller_steps():
    assert refusal(
        3, teachers=[teacher(1.0)], batches=[Columns(labels=torch.zeros(2), teacher_0_logits=torch.ones(2))]
    ) == ("the term 'kd' is nan at step 3; lower optimizer.learning_rate, or train with training.precision=fp32")


def test_a_teacher_whose_weights_are_no_numbers_is_named_and_the_learning_rate_is_not():
    line = refusal(3, teachers=[teacher(1.0), teacher(math.inf)])
    assert line == (
        "the term 'kd' is nan at step 3; teacher 1 has weights that are not finite numbers, "
        "so choose another checkpoint for it, or capture its outputs anew"
    )


def test_stored_outputs_that_are_no_numbers_are_named():
    batches = [Columns(teacher_0_logits=torch.ones(2, 3)), Columns(teacher_0_logits=torch.full((2, 3), math.nan))]
    line = refusal(3, batches=batches)
    assert "; the stored teacher_0_logits are not finite numbers, so " in line
    assert "learning_rate" not in line


def test_before_the_first_step_no_learning_rate_is_to_blame():
    line = refusal(0, teachers=[teacher(1.0)])
    assert "nothing was trained yet: choose a student and teachers with finite outputs" in line
    assert "learning_rate" not in line


def test_a_teacher_that_overflows_in_this_precision_is_named_and_the_learning_rate_is_not():
    teachers = [teacher(1.0), teacher(1000.0).half()]
    batch = torch.full((1, 2), 100.0)
    line = refusal(7, teachers=teachers, again=lambda: (teachers[0](batch), teachers[1](batch.half())))
    assert line == (
        "the term 'kd' is nan at step 7; teacher 1, whose weights are finite, computes a value that is not finite in "
        "this precision; train with training.precision=fp32, or choose another checkpoint for it"
    )
    assert not teachers[1]._forward_hooks


def test_a_student_that_fails_when_it_is_looked_at_again_hides_no_teacher():
    overflowing = teacher(1000.0).half()

    def again():
        overflowing(torch.full((1, 2), 100.0).half())
        raise RuntimeError("probabilities are not finite")

    assert "; teacher 0, whose weights are finite, computes" in refusal(7, teachers=[overflowing], again=again)
