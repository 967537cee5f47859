"""The causal step on a GPU: tokens/s, share of the matrix peak, and ratio to the published form in six passes.

Needs torch, transformers and the half of this package that needs no more. On a GPU: the models of ``causal_step.py``,
64 x 512 tokens, bf16. Without one it computes the same at toy sizes, to show that it runs, and says so: no figure of
such a run is one of a GPU. A step is a forward and backward pass and one of fused AdamW at a rate of 0, so that all
forms compute with the same weights; ours takes its batches from pinned memory, copied while the step before it
computes. With ``--compile`` the blocks of ours are measured compiled as well. The peak is that of a square matrix
product, measured in the same run; the share is of the operations in matrix products and attention that a step of ours
makes. Medians over ``ROUNDS`` rounds in turn.
"""

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))

from raydistill.batch import Batch
from raydistill.methods.causal import Config, Method
from raydistill.models.compiling import compile_blocks
from raydistill.optim.optimizers import make_optimizer
from raydistill.training.ahead import Ahead, lane_of
from reference.workload import MASKED, PUBLISHED, SHARED_PREFIX, Size, make_batch, make_models, reference_step

ROUNDS = 5
VARIANTS = {"published": PUBLISHED, "in_batch_shared_prefix": SHARED_PREFIX, "masked_positions": MASKED}
TOY = {"hidden_size": 48, "intermediate_size": 96, "vocab_size": 2000}
KERNEL = torch.ops.aten._flash_attention_forward
"""Attention over rows of unequal lengths without padding."""


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Of a call, until the device is done."""
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


class Ours:
    """The package's form of the step, its batches on their way to the device while it computes."""

    def __init__(self, settings: Config, teacher: nn.Module, student: nn.Module, size: Size) -> None:
        self._method = Method(settings, student, [teacher]).train()
        self._optimizer = optimizer_of(student)
        on_host = size._replace(device=torch.device("cpu"))
        # The first round allocates buffers, and a last batch is counted and not timed.
        batches = [make_batch(settings, number, on_host) for number in range(ROUNDS + 2)]
        self.tokens = [batch["token_index"].shape[0] for batch in batches]
        self._ahead = Ahead(iter([[batch] for batch in batches]), size.device, lane_of(size.device))

    def loss(self, batch: Batch) -> Tensor:
        """Of one batch."""
        loss: Tensor = self._method(batch, self._method.denominators(batch))[0]
        return loss

    def step(self) -> None:
        """One step."""
        (batch,) = self._ahead.take()
        self.loss(batch).backward()
        self._ahead.prepare()
        self._optimizer.step()
        self._optimizer.zero_grad()


def optimizer_of(student: nn.Module) -> torch.optim.Optimizer:
    """Fused AdamW at a rate of 0."""
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    return make_optimizer("adamw", [{"params": trained}], betas=(0.9, 0.999), epsilon=1e-8, max_grad_norm=1.0)


def peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of the fastest of a few matrix products."""
    size = 8192 if device.type == "cuda" else 256
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / min(seconds(lambda: one @ other, device) for _ in range(ROUNDS + 1))


def report(name: str, value: float, unit: str, device: torch.device) -> None:
    """Print a figure."""
    figure = {"name": f"gpu_step.{name}", "value": float(f"{value:.4g}"), "unit": unit, "bound": None, "met": None}
    where = torch.cuda.get_device_name() if device.type == "cuda" else "a CPU, at toy size: no figure of a GPU"
    print(json.dumps({**figure, "device": where}), flush=True)  # noqa: T201


def measure(teacher: nn.Module, student: nn.Module, size: Size, *, compiles: bool) -> None:
    """Print the figures of all forms of a step."""
    device, dtype = size.device, next(student.parameters()).dtype
    ours = {name: Ours(settings, teacher, student, size) for name, settings in VARIANTS.items()}
    if compiles:
        compiled = [copy.deepcopy(model) for model in (teacher, student)]
        for model in compiled:
            compile_blocks(model)
        ours["masked_positions.compiled"] = Ours(MASKED, *compiled, size)
    optimizer = optimizer_of(student)
    reference: list[float] = []
    times: dict[str, list[float]] = {name: [] for name in ours}
    for number in range(ROUNDS + 1):
        loss = reference_step(teacher, student, number, size)

        def published(loss: Callable[[], Tensor] = loss) -> None:
            loss().backward()
            optimizer.step()
            optimizer.zero_grad()

        reference.append(seconds(published, device))
        for name, form in ours.items():
            times[name].append(seconds(form.step, device))
    fastest = peak(device, dtype)
    report("peak", fastest / 1e12, "TFLOP/s", device)
    for name, form in ours.items():
        speeds = [tokens / taken for tokens, taken in zip(form.tokens[1:], times[name][1:], strict=False)]
        report(f"{name}.tokens", statistics.median(speeds), "tokens/s", device)
        ratios = [theirs / mine for theirs, mine in zip(reference[1:], times[name][1:], strict=True)]
        report(f"{name}.speedup", statistics.median(ratios), "x", device)
        if "compiled" in name:
            # The counter does not see into what was compiled, which makes the same products.
            continue
        with FlopCounterMode(display=False) as counter:
            form.step()
        taken = statistics.median(times[name][1:])
        report(f"{name}.share_of_peak", counter.get_total_flops() / taken / fastest, "share", device)
        calls = counter.get_flop_counts()["Global"].get(KERNEL, 0)
        report(f"{name}.attention_without_padding", float(calls > 0), "chosen", device)


def main() -> None:
    """Measure on a GPU where there is one, else at toy size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--compile", action="store_true", help="measure compiled blocks as well")
    parser.add_argument("--toy", action="store_true", help="stay on the CPU, at toy size")
    options = parser.parse_args()
    is_gpu = torch.cuda.is_available() and not options.toy
    device, dtype = (torch.device("cuda"), torch.bfloat16) if is_gpu else (torch.device("cpu"), torch.float32)
    size = Size(64, 512, device=device) if is_gpu else Size(4, 32, TOY["vocab_size"])
    teacher, student = (model.to(device, dtype) for model in make_models(**({} if is_gpu else TOY)))
    measure(teacher, student, size, compiles=options.compile)


if __name__ == "__main__":
    main()
