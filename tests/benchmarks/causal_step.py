"""The causal step against the six-pass reference, forward and backward pass, 2 threads.

All run in turn in one process, since machines are noisy; a figure is the median ratio of times over ``ROUNDS`` rounds.
Takes about six minutes.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from reference.workload import MASKED, PUBLISHED, SHARED_PREFIX, make_models, our_step, reference_step

ROUNDS = 9
VARIANTS = {
    "causal_step.speedup": (PUBLISHED, 1.6),
    "causal_step.in_batch_shared_prefix_speedup": (SHARED_PREFIX, 2.4),
    "causal_step.masked_positions_speedup": (MASKED, 3.3),
}
"""Settings and bound of each figure."""


def seconds(step: Callable[[], torch.Tensor]) -> float:
    """Time of a forward and backward pass."""
    start = time.perf_counter()
    step().backward()
    return time.perf_counter() - start


def main() -> None:
    """Print the figures."""
    torch.set_num_threads(2)
    teacher, student = make_models()
    ratios: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for step in range(ROUNDS + 1):
        theirs = seconds(reference_step(teacher, student, step))
        student.zero_grad()
        for name, (settings, _) in VARIANTS.items():
            ours = seconds(our_step(settings, teacher, student, step))
            student.zero_grad()
            if step > 0:
                ratios[name].append(theirs / ours)
    for name, (_, bound) in VARIANTS.items():
        value = statistics.median(ratios[name])
        figure = {"name": name, "value": round(value, 3), "unit": "x", "bound": bound}
        print(json.dumps({**figure, "met": value >= bound}))  # noqa: T201


if __name__ == "__main__":
    main()
