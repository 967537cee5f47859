"""Size and speed of a pruned BERT-base against its sparsity: parameters, file, blocks and whole forward passes.

Needs torch, transformers and this package's models alone. Scores are drawn, so every block loses about as much, and
widths are as odd as real scores make them. All models run in turn in one process, since machines are noisy; times are
medians over ``ROUNDS`` rounds on the CPU, fp32, 2 threads, under three minutes.

Every product of a block has one side that is pruned, so of its work the share that is left is that of its weights:
1 over that share is the ideal speed-up of the blocks. Norms and sums of whole states stay as they are.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification
from transformers.utils.logging import disable_progress_bar

from raydistill.batch import Batch, collate
from raydistill.layout import Layout
from raydistill.models.blocks import blocks_of
from raydistill.models.importance import Scores
from raydistill.models.kept_units import head_size
from raydistill.models.predictions import predict
from raydistill.models.pruning import kept_units, pruned

MODEL: dict[str, Any] = {"num_labels": 2}
"""Sizes of the model where they are not those of BERT-base."""
LEVELS = (25, 50, 75)
"""Percent of heads and of neurons that are taken away."""
ROUNDS = 7
ROWS, TOKENS = 8, 128
LEAST_SHARE_OF_IDEAL = 0.6
"""Of what the blocks' ideal speed-up gains over 1, which they have to reach."""
SIZE_TOLERANCE = 0.01
"""How far weights and file may be from the share that is left, such as by biases that stay and the file's header."""


def batch() -> Batch:
    """Full rows of drawn ids."""
    ids = np.random.default_rng(0).integers(1000, 30000, (ROWS, TOKENS)) % MODEL.get("vocab_size", 30522)
    return collate(list(ids), list(range(ROWS)), pad_id=0, seed=0, epoch=0, step=0)


def seconds(run: Callable[[], Any]) -> float:
    """Time of a call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def runs_of(model: nn.Module, rows: Batch) -> dict[str, Callable[[], Any]]:
    """A forward pass, and its blocks alone."""
    blocks, layout = blocks_of(model), Layout.of(rows["attention_mask"], rows["token_index"])
    states = blocks.embed(layout.take(rows["input_ids"]), layout, rows.get("token_types"))
    return {
        "forward": lambda: predict(model, rows, head="sequence_classification"),
        "blocks": lambda: blocks.run(states, layout, 0, blocks.num_blocks),
    }


def num_parameters(model: nn.Module) -> int:
    """Parameters of the whole model."""
    return sum(parameter.numel() for parameter in model.parameters())


def block_weights(model: nn.Module) -> int:
    """Weights of the blocks' linear layers."""
    blocks = model.get_submodule("bert.encoder.layer")
    return sum(one.weight.numel() for one in blocks.modules() if isinstance(one, nn.Linear))


def file_bytes(model: nn.Module) -> int:
    """Size of the model's weights on disk."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)  # type: ignore[operator]
        return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))


def report(name: str, value: float, unit: str, met: bool | None = None, bound: float | None = None) -> None:
    """Print a figure as a line of JSON."""
    print(json.dumps({"name": name, "value": round(value, 4), "unit": unit, "bound": bound, "met": met}))  # noqa: T201


def report_sizes(models: dict[int, nn.Module]) -> None:
    """Print what is left of weights and file at each level, held to what it says of the blocks."""
    sizes = {level: file_bytes(model) for level, model in models.items()}
    for level, model in models.items():
        name, stays = f"pruning.sparsity_{level}", 1 - level / 100
        report(f"{name}.parameters", num_parameters(model) / 1e6, "M")
        report(f"{name}.file", sizes[level] / 1e6, "MB")
        if level:
            weights = block_weights(model) / block_weights(models[0])
            report(f"{name}.block_weights", weights, "of full", abs(weights - stays) <= SIZE_TOLERANCE, stays)
            # In float32 four bytes a weight; embeddings, norms and classifier stay.
            expected = 1 - (1 - stays) * 4 * block_weights(models[0]) / sizes[0]
            share = sizes[level] / sizes[0]
            report(f"{name}.file_share", share, "of full", abs(share - expected) <= SIZE_TOLERANCE, round(expected, 4))


def report_speeds(models: dict[int, nn.Module], rounds: list[dict[tuple[int, str], float]]) -> None:
    """Print each level's times and speed-ups, those of the blocks held to a share of the ideal ones."""
    for level, part in rounds[0]:
        name = f"pruning.sparsity_{level}.{part}"
        report(name, 1000 * statistics.median(one[level, part] for one in rounds) / ROWS, "ms a row")
        if level:
            speedup = statistics.median(one[0, part] / one[level, part] for one in rounds)
            ideal = block_weights(models[0]) / block_weights(models[level])
            bound = round(1 + LEAST_SHARE_OF_IDEAL * (ideal - 1), 4) if part == "blocks" else None
            report(f"{name}_speedup", speedup, "x", None if bound is None else speedup >= bound, bound)


@torch.no_grad()
def main() -> None:
    """Print the figures of each level."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    disable_progress_bar()
    config = BertConfig(**MODEL)
    full = BertForSequenceClassification(config).eval()
    blocks = config.num_hidden_layers
    scores = Scores(torch.rand(blocks, config.num_attention_heads), torch.rand(blocks, config.intermediate_size))
    kept = {level: kept_units(scores, level, head_size=head_size(config)) for level in LEVELS}
    models = {0: full, **{level: pruned(full, units) for level, units in kept.items()}}
    rows = batch()
    runs = {(level, part): run for level, model in models.items() for part, run in runs_of(model, rows).items()}
    rounds = [{key: seconds(run) for key, run in runs.items()} for _ in range(ROUNDS + 1)][1:]
    report_sizes(models)
    report_speeds(models, rounds)


if __name__ == "__main__":
    main()
