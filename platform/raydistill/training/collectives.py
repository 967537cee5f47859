"""What all workers of a training do together."""

import torch.distributed as dist
from torch import Tensor


def add_up(values: Tensor) -> None:
    """Add, in place, what all ranks have; a rank that is alone does not wait for the thread that would do it."""
    if dist.get_world_size() > 1:
        dist.all_reduce(values)
