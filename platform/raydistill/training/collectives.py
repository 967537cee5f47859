"""What all workers of a training do together."""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor


def add_up(values: Tensor) -> None:
    """Add, in place, what all ranks have; a rank that is alone does not wait for the thread that would do it."""
    if dist.get_world_size() > 1:
        dist.all_reduce(values)


def summed(totals: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sums over all ranks of what each has under the same names, in float64, with one collective."""
    values = torch.cat([value.double().flatten() for value in totals.values()])
    add_up(values)
    parts = values.split([value.numel() for value in totals.values()])
    return {name: part.view(totals[name].shape) for name, part in zip(totals, parts, strict=True)}
