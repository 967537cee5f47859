"""The causal step on a GPU: tokens/s, share of the matrix peak, and ratio to the published form in six passes.

Needs torch, transformers and the half of this package that needs no more. On a GPU: the models of ``causal_step.py``,
64 x 512 tokens, bf16. Without one it computes the same at tiny sizes, to show that it runs, and says so: no figure of
such a run is one of a GPU. The peak is that of a square matrix product, measured in the same run; the share is of the
operations in matrix products and attention that a step of ours makes. Medians over ``ROUNDS`` rounds in turn.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))

from reference.workload import (
    MASKED,
    PUBLISHED,
    SHARED_PREFIX,
    Size,
    make_batch,
    make_models,
    our_step,
    reference_step,
)

ROUNDS = 5
VARIANTS = {"published": PUBLISHED, "in_batch_shared_prefix": SHARED_PREFIX, "masked_positions": MASKED}
TINY = {"hidden_size": 48, "intermediate_size": 96, "vocab_size": 2000}
NOT_MEASURED = "not measured on a GPU"


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Of a call, until the device is done."""
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def step(loss: Callable[[], torch.Tensor], student: nn.Module) -> None:
    """A forward and backward pass."""
    loss().backward()
    student.zero_grad()


def peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of the fastest of a few matrix products."""
    size = 8192 if device.type == "cuda" else 256
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / min(seconds(lambda: one @ other, device) for _ in range(ROUNDS + 1))


def report(name: str, value: float, unit: str, device: torch.device) -> None:
    """Print a figure."""
    figure = {"name": f"gpu_step.{name}", "value": round(value, 3), "unit": unit, "bound": None, "met": None}
    note = {"device": torch.cuda.get_device_name() if device.type == "cuda" else NOT_MEASURED}
    print(json.dumps({**figure, **note}), flush=True)  # noqa: T201


def main() -> None:
    """Print the figures."""
    is_gpu = torch.cuda.is_available()
    device, dtype = (torch.device("cuda"), torch.bfloat16) if is_gpu else (torch.device("cpu"), torch.float32)
    size = Size(64, 512, device=device) if is_gpu else Size(4, 32, TINY["vocab_size"])
    teacher, student = (model.to(device, dtype) for model in make_models(**({} if is_gpu else TINY)))
    reference: list[float] = []
    ours: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for number in range(ROUNDS + 1):
        loss = reference_step(teacher, student, number, size)
        times = {"": seconds(lambda: step(loss, student), device)}  # noqa: B023
        for name, settings in VARIANTS.items():
            loss = our_step(settings, teacher, student, number, size)
            times[name] = seconds(lambda: step(loss, student), device)  # noqa: B023
        # The first round allocates buffers.
        if number > 0:
            reference.append(times.pop(""))
            for name, value in times.items():
                ours[name].append(value)
    fastest = peak(device, dtype)
    report("peak", fastest / 1e12, "TFLOP/s", device)
    for name, settings in VARIANTS.items():
        taken = statistics.median(ours[name])
        with FlopCounterMode(display=False) as counter:
            step(our_step(settings, teacher, student, 1, size), student)
        tokens = len(make_batch(settings, 1, size)["token_index"])
        report(f"{name}.tokens", tokens / taken, "tokens/s", device)
        report(f"{name}.share_of_peak", counter.get_total_flops() / taken / fastest, "share", device)
        ratios = [theirs / mine for theirs, mine in zip(reference, ours[name], strict=True)]
        report(f"{name}.speedup", statistics.median(ratios), "x", device)


if __name__ == "__main__":
    main()
