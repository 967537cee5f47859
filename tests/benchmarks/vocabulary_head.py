"""The chunked vocabulary head against plain formulas on the logits of all rows: KL to a teacher and cross-entropy.

Needs torch and the losses of this package alone. The two run in turn in one process, since machines are noisy; figures
are medians over ``ROUNDS`` rounds, with forward and backward pass each. On a CPU: fp32, 2 threads, about two minutes,
peak memory by the growth of a fresh process. On a GPU: bf16, more rows, and the share of the card's dense bf16 peak.
"""

import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from raydistill.losses.chunked_head import vocabulary_losses
from raydistill.losses.soft_targets import kl_divergence

ROUNDS = 9
WIDTH, VOCABULARY, TEMPERATURE = 768, 30522, 2.0
CPU_SIZES = ((820, 120), (120, 120))
"""Rows and labelled rows: all tokens of 8 x 128 places, and their masked tokens alone."""
GPU_SIZES = ((8192, 1229), (1229, 1229))
MEMORY_BOUND = 0.5
PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0}
"""Dense bf16 peaks of SXM cards, by what their name has in it."""

Step = Callable[[], Tensor]


def steps(rows: int, labelled: int, device: str) -> tuple[Step, Step]:
    """The plain and the chunked forward pass of the same numbers."""
    torch.manual_seed(0)
    options = {"device": device, "dtype": torch.float32 if device == "cpu" else torch.bfloat16}
    states, teacher_states = (torch.randn(rows, WIDTH, **options) for _ in range(2))
    weight, teacher_weight = (torch.randn(VOCABULARY, WIDTH, **options).mul_(0.05) for _ in range(2))
    bias, teacher_bias = (torch.zeros(VOCABULARY, **options) for _ in range(2))
    labels = torch.randint(VOCABULARY, (labelled,), device=device)
    for tensor in (states, weight, bias):
        tensor.requires_grad_()

    def plain() -> Tensor:
        states.grad = weight.grad = bias.grad = None
        logits = linear(states, weight, bias)
        kl = kl_divergence(logits, linear(teacher_states, teacher_weight, teacher_bias), temperature=TEMPERATURE)
        return kl.sum() / rows + cross_entropy(logits[:labelled].float(), labels, reduction="sum") / labelled

    def chunked() -> Tensor:
        states.grad = weight.grad = bias.grad = None
        return vocabulary_losses(
            states,
            (weight, bias),
            teacher_states,
            (teacher_weight, teacher_bias),
            weights={"kl": 1 / rows, "ce": 1 / labelled},
            labels=labels,
            temperature=TEMPERATURE,
        )[0]

    return plain, chunked


def seconds(step: Step, device: str) -> float:
    """Time of a forward and backward pass."""
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    step().backward()
    synchronize()
    return time.perf_counter() - start


def grown_bytes(rows: int, labelled: int, number: int) -> float:
    """By how much a step (0 plain, 1 chunked) raises the peak of this process over what its inputs hold."""
    torch.set_num_threads(2)
    step = steps(rows, labelled, "cpu")[number]
    held = status_bytes("VmRSS")
    step().backward()
    return status_bytes("VmHWM") - held


def status_bytes(name: str) -> int:
    """A number of Linux's status of this process; its peak, unlike getrusage's, is not that of the parent."""
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in status if line.startswith(name)).split()[1])


def peak_bytes(step: Step) -> float:
    """The most bytes that a step holds on the GPU besides its inputs."""
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step().backward()
    return torch.cuda.max_memory_allocated() - held


def memory_ratio(rows: int, labelled: int, device: str) -> float:
    """Memory of the chunked step over that of the plain one."""
    if device == "cuda":
        plain, chunked = (peak_bytes(step) for step in steps(rows, labelled, device))
    else:
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            plain, chunked = pool.starmap(grown_bytes, [(rows, labelled, number) for number in (0, 1)], chunksize=1)
    return chunked / plain


def report(name: str, value: float, unit: str, met: bool | None = None, bound: float | None = None) -> None:
    """Print a figure as a line of JSON."""
    print(json.dumps({"name": name, "value": round(value, 4), "unit": unit, "bound": bound, "met": met}))  # noqa: T201


def main() -> None:
    """Print the figures of each size."""
    torch.set_num_threads(2)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for rows, labelled in GPU_SIZES if device == "cuda" else CPU_SIZES:
        name = f"vocabulary_head.{device}.{rows}_rows_{labelled}_labelled"
        plain, chunked = steps(rows, labelled, device)
        times = [(seconds(plain, device), seconds(chunked, device)) for _ in range(ROUNDS + 1)][1:]
        report(f"{name}.speedup", statistics.median(theirs / ours for theirs, ours in times), "x")
        step_s = statistics.median(ours for _, ours in times)
        report(f"{name}.tokens", rows / step_s, "tokens/s")
        peaks = [
            peak for card, peak in PEAK_TFLOPS.items() if device == "cuda" and card in torch.cuda.get_device_name()
        ]
        if peaks:
            # Logits of student and teacher, and the gradients of states and weight: four products.
            report(f"{name}.peak_share", 8 * rows * WIDTH * VOCABULARY / step_s / (peaks[0] * 1e12), "of bf16 peak")
        del plain, chunked
        ratio = memory_ratio(rows, labelled, device)
        bound = MEMORY_BOUND if rows > labelled else None
        report(f"{name}.memory", ratio, "of plain", None if bound is None else ratio <= bound, bound)


if __name__ == "__main__":
    main()
