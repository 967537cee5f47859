"""Losses that are no finite number, and what they come from."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raydistill.batch import Batch
from raydistill.user_error import UserError

logger = logging.getLogger(__name__)

_PREFIX = "teacher_"


class NonFiniteLossError(UserError):
    """A term of the loss is not a finite number; its text names the term, the step and what to look at."""


def check_finite(
    totals: Mapping[str, Tensor],
    step: int,
    *,
    batches: Sequence[Batch],
    teachers: Sequence[nn.Module],
    again: Callable[[], object],
) -> None:
    """Raise NonFiniteLossError naming the first term that is not finite, terms before their sum.

    ``totals`` are those of all ranks, so that each of them comes to the same end; all call it. ``again`` repeats the
    forward passes of the batches, for a look at what the teachers answer.
    """
    for name, value in sorted(totals.items(), key=lambda item: item[0] == "loss"):
        if not math.isfinite(value.item()):
            remedy = _remedy(step, _unfit_teacher(batches, teachers, again, like=value))
            raise NonFiniteLossError(f"the term {name!r} is {value.item()} at step {step}; {remedy}")


def _remedy(step: int, unfit: str | None) -> str:
    if unfit is not None:
        return unfit
    if step == 0:
        return "nothing was trained yet: choose a student and teachers with finite outputs, or training.precision=fp32"
    return "lower optimizer.learning_rate, or train with training.precision=fp32"


def _unfit_teacher(
    batches: Sequence[Batch], teachers: Sequence[nn.Module], again: Callable[[], object], *, like: Tensor
) -> str | None:
    """Which teacher has weights or answers, or stored outputs of these batches, that are not finite, on any rank."""
    columns = sorted({name for batch in batches for name in batch.columns if name.startswith(_PREFIX)})
    found = [all(map(_is_finite, teacher.parameters())) for teacher in teachers]
    found += [all(_is_finite(batch[name]) for batch in batches) for name in columns]
    found += _answers_are_finite(teachers, again)
    if not found:
        return None
    flags = torch.tensor(found, dtype=torch.float64, device=like.device)
    dist.all_reduce(flags, op=dist.ReduceOp.MIN)
    numbers, remedy = range(len(teachers)), "so choose another checkpoint for it, or capture its outputs anew"
    what = [f"teacher {number} has weights that are not finite numbers, {remedy}" for number in numbers]
    what += [f"the stored {name} are not finite numbers, {remedy}" for name in columns]
    what += [
        f"teacher {number}, whose weights are finite, computes a value that is not finite in this precision; train "
        "with training.precision=fp32, or choose another checkpoint for it"
        for number in numbers
    ]
    return next((text for text, flag in zip(what, flags.tolist(), strict=True) if not flag), None)


def _answers_are_finite(teachers: Sequence[nn.Module], again: Callable[[], object]) -> list[bool]:
    """For each teacher whether its modules with weights compute finite numbers alone, when ``again`` is called."""
    found = [True] * len(teachers)
    hooks = []
    for number, teacher in enumerate(teachers):

        def look(_module: nn.Module, _given: object, answer: object, number: int = number) -> None:
            if isinstance(answer, Tensor):
                found[number] &= _is_finite(answer)

        leaves = [module for module in teacher.modules() if not [*module.children()] and [*module.parameters()]]
        hooks += [module.register_forward_hook(look) for module in leaves]
    try:
        if teachers:
            again()
    except Exception:  # A student that is no longer finite may be refused anywhere; what was seen before counts.
        logger.debug("The forward passes could not be repeated.", exc_info=True)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _is_finite(values: Tensor) -> bool:
    return not values.is_floating_point() or bool(torch.isfinite(values).all())
