"""Throughput of packed families against the same models run whole on padded rows, as any other model is.

Needs torch, transformers and this package's models alone. Rows have lengths from an eighth of the longest up to it,
as texts have; both run them in the same batches. All models run in turn in one process, since machines are noisy; times
are medians over ``ROUNDS`` rounds on the CPU, fp32, 2 threads, without gradients and with them, about two minutes.
"""

import json
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig

from raydistill.batch import Batch, collate
from raydistill.models import predictions
from raydistill.models.blocks import blocks_of
from raydistill.models.blocks.generic import Family
from raydistill.models.heads import model_class

FAMILIES = ("bert", "modernbert", "llama", "gpt2")
"""An encoder, one with windows, a decoder with rotations and one with learned positions."""
SIZES: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "vocab_size": 30_522,
    "max_position_embeddings": 512,
}
ROWS, TOKENS = 16, 256
ROUNDS = 5
LEAST_SPEEDUP = 1.0


def batch() -> Batch:
    """Rows of drawn ids, a row's length by its number."""
    generator = np.random.default_rng(0)
    lengths = np.linspace(TOKENS // 8, TOKENS, ROWS).astype(int)
    rows = [generator.integers(1000, 30_000, length) % SIZES["vocab_size"] for length in lengths]
    return collate(rows, list(range(ROWS)), pad_id=0, seed=0, epoch=0, step=0)


def model_of(kind: str) -> nn.Module:
    """A classifier of sequences with drawn weights."""
    names = type(AutoConfig.for_model(kind)).attribute_map
    config = AutoConfig.for_model(kind, **{names.get(name, name): value for name, value in SIZES.items()})
    config.pad_token_id, config.num_labels = 0, 2
    torch.manual_seed(0)
    made: nn.Module = model_class("sequence_classification").from_config(config, attn_implementation="sdpa")
    return made.eval()


def logits_of(model: nn.Module, rows: Batch, *, packed: bool) -> torch.Tensor:
    """Logits by the family, or by the one that any other model has."""
    with patch.object(predictions, "blocks_of", blocks_of if packed else Family):
        return predictions.predict(model, rows, head="sequence_classification").logits


def forward(model: nn.Module, rows: Batch, *, packed: bool) -> None:
    """A pass of a teacher."""
    with torch.no_grad():
        logits_of(model, rows, packed=packed)


def step(model: nn.Module, rows: Batch, *, packed: bool) -> None:
    """A pass and the gradients of a student."""
    logits_of(model, rows, packed=packed).square().sum().backward()
    model.zero_grad()


def seconds(run: Callable[[], Any]) -> float:
    """Time of a call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    """Measure in turn and print a line of JSON a figure."""
    torch.set_num_threads(2)
    rows, models = batch(), {kind: model_of(kind) for kind in FAMILIES}
    for model in models.values():
        packed, whole = (logits_of(model, rows, packed=packed) for packed in (True, False))
        torch.testing.assert_close(packed, whole, rtol=1e-3, atol=1e-4)
    times: dict[tuple[str, str, bool], list[float]] = {}
    for number in range(ROUNDS + 1):
        for kind, model in models.items():
            for run in (forward, step):
                for packed in (True, False):
                    taken = seconds(lambda run=run, model=model, packed=packed: run(model, rows, packed=packed))
                    if number:
                        times.setdefault((kind, run.__name__, packed), []).append(taken)
    tokens = int(rows["lengths"].sum())
    for kind in FAMILIES:
        for name in ("forward", "step"):
            packed, whole = (statistics.median(times[kind, name, packed]) for packed in (True, False))
            report(f"{kind}_{name}_packed", tokens / packed, "tokens/s")
            report(f"{kind}_{name}_whole", tokens / whole, "tokens/s")
            report(f"{kind}_{name}_speedup", whole / packed, "x", bound=LEAST_SPEEDUP)


def report(name: str, value: float, unit: str, *, bound: float | None = None) -> None:
    """Print a figure as a line of JSON."""
    met = None if bound is None else value >= bound
    print(json.dumps({"name": name, "value": round(value, 3), "unit": unit, "bound": bound, "met": met}))  # noqa: T201


if __name__ == "__main__":
    main()
