"""The causal step against the six-pass reference, forward and backward pass, in float32 and in bf16.

The reference computes in float32, as published, in a process of its own: ours keeps the memory that a step frees, and
the reference is not to gain from that. The two processes run in turn, since machines are noisy, with one thread each;
a figure is the median ratio over the rounds of the seconds of the processor that both took. Where bf16 is slow, as
``precision: auto`` finds, its figures are left out. Takes about ten minutes on an idle machine; ``--rounds 1`` three.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from raydistill.computing import compute_with
from raydistill.training.precision import Shape, choose
from reference.workload import MASKED, PUBLISHED, ROWS, SHARED_PREFIX, WIDTH, make_models, our_step, reference_step

VARIANTS = {
    "causal_step": (PUBLISHED, {"fp32": 1.8, "bf16": 4.0}),
    "causal_step.in_batch_shared_prefix": (SHARED_PREFIX, {"fp32": 2.5, "bf16": 5.5}),
    "causal_step.masked_positions": (MASKED, {"fp32": 3.7, "bf16": 8.0}),
}
"""Settings, and the bound of each precision."""


def seconds(step: Callable[[], torch.Tensor], student: nn.Module) -> float:
    """Of the processor, of a forward and backward pass."""
    start = time.process_time()
    step().backward()
    student.zero_grad()
    return time.process_time() - start


def serve_reference(connection: Any) -> None:
    """The process of the reference: the seconds of each step that it is asked for."""
    torch.set_num_threads(1)
    teacher, student = make_models()
    while (step := connection.recv()) is not None:
        connection.send(seconds(reference_step(teacher, student, step), student))


def chosen(config: Any) -> str:
    """What ``precision: auto`` comes to here, for a student's configuration."""
    shape = Shape(ROWS, WIDTH, config.dim, config.hidden_dim, config.n_heads, config.n_layers, config.vocab_size)
    return choose(shape, num_threads=1).precision


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve_reference, args=(there,))
    process.start()
    compute_with(1)
    models = {"fp32": make_models()}
    if chosen(models["fp32"][1].config) == "bf16":
        teacher, student = make_models()
        models["bf16"] = teacher.to(torch.bfloat16), student.to(torch.bfloat16)
    ratios: dict[tuple[str, str], list[float]] = {}
    for step in range(rounds + 1):
        here.send(step)
        theirs = here.recv()
        for precision, (teacher, student) in models.items():
            for name, (settings, _) in VARIANTS.items():
                ours = seconds(our_step(settings, teacher, student, step), student)
                # The first round allocates buffers.
                if step > 0:
                    ratios.setdefault((name, precision), []).append(theirs / ours)
    here.send(None)
    process.join()
    for (name, precision), found in ratios.items():
        value, bound = statistics.median(found), VARIANTS[name][1][precision]
        figure = {"name": f"{name}.speedup.{precision}", "value": round(value, 3), "unit": "x", "bound": bound}
        print(json.dumps({**figure, "met": value >= bound}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
