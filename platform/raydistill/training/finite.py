"""Losses that are no finite number, and what they come from."""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raydistill.batch import Batch
from raydistill.user_error import UserError

_PREFIX = "teacher_"


class NonFiniteLossError(UserError):
    """A term of the loss is no finite number; its text names the term, the step and what to look at."""


def check_finite(
    totals: Mapping[str, Tensor], step: int, *, batches: Sequence[Batch], teachers: Sequence[nn.Module]
) -> None:
    """Raise NonFiniteLossError naming the first term that is not finite, terms before their sum.

    ``totals`` are those of all ranks, so that each of them comes to the same end; all call it.
    """
    for name, value in sorted(totals.items(), key=lambda item: item[0] == "loss"):
        if not math.isfinite(value.item()):
            remedy = _remedy(step, _unfit_teacher(batches, teachers, like=value))
            raise NonFiniteLossError(f"the term {name!r} is {value.item()} at step {step}; {remedy}")


def _remedy(step: int, unfit: str | None) -> str:
    if unfit is not None:
        return f"{unfit}, so choose another checkpoint for it, or capture its outputs anew"
    if step == 0:
        return "nothing was trained yet: choose a student and teachers with finite outputs, or training.precision=fp32"
    return "lower optimizer.learning_rate, or train with training.precision=fp32"


def _unfit_teacher(batches: Sequence[Batch], teachers: Sequence[nn.Module], *, like: Tensor) -> str | None:
    """Which teacher has weights, or stored outputs of these batches, that are not finite, on whatever rank."""
    columns = sorted({name for batch in batches for name in batch.columns if name.startswith(_PREFIX)})
    found = [all(map(_is_finite, teacher.parameters())) for teacher in teachers]
    found += [all(_is_finite(batch[name]) for batch in batches) for name in columns]
    if not found:
        return None
    flags = torch.tensor(found, dtype=torch.float64, device=like.device)
    dist.all_reduce(flags, op=dist.ReduceOp.MIN)
    what = [f"teacher {number} has weights that are no finite numbers" for number in range(len(teachers))]
    what += [f"the stored {name} are no finite numbers" for name in columns]
    return next((text for text, flag in zip(what, flags.tolist(), strict=True) if not flag), None)


def _is_finite(values: Tensor) -> bool:
    return not values.is_floating_point() or bool(torch.isfinite(values).all())
