"""Size and speed of a pruned BERT-base against its sparsity: blocks' parameters, file size, time of a forward pass.

Needs torch, transformers and this package's models alone. Scores are drawn, so every block loses about as much. All
models run in turn in one process, since machines are noisy; times are medians over ``ROUNDS`` rounds on the CPU, fp32,
2 threads, about two minutes.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from raydistill.batch import Batch, collate
from raydistill.models.importance import Scores
from raydistill.models.kept_units import head_size
from raydistill.models.predictions import predict
from raydistill.models.pruning import kept_units, pruned

ROUNDS = 7
LEVELS = (0, 30, 50, 70, 90)
ROWS, TOKENS = 8, 128
LEAST_SHARE_OF_IDEAL = 0.6
"""Of the speed-up that work in proportion to what is left would give; norms and embeddings stay as they are."""
SIZE_TOLERANCE = 0.01


def batch() -> Batch:
    """Full rows of drawn ids."""
    ids = np.random.default_rng(0).integers(1000, 30000, (ROWS, TOKENS))
    return collate(list(ids), list(range(ROWS)), pad_id=0, seed=0, epoch=0, step=0)


def seconds(model: nn.Module, rows: Batch) -> float:
    """Time of a forward pass."""
    start = time.perf_counter()
    with torch.no_grad():
        predict(model, rows, head="sequence_classification")
    return time.perf_counter() - start


def block_parameters(model: nn.Module) -> int:
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


def main() -> None:
    """Print the figures of each level."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    config = BertConfig(num_labels=2)
    full = BertForSequenceClassification(config).eval()
    scores = Scores(torch.rand(12, config.num_attention_heads), torch.rand(12, config.intermediate_size))
    models = {
        level: pruned(full, kept_units(scores, level, head_size=head_size(config))) if level else full
        for level in LEVELS
    }
    rows = batch()
    rounds = [{level: seconds(model, rows) for level, model in models.items()} for _ in range(ROUNDS + 1)][1:]
    weights, size = block_parameters(full), file_bytes(full)
    for level, model in models.items():
        name = f"pruning.sparsity_{level}"
        left = block_parameters(model) / weights
        difference = abs(left - (1 - level / 100))
        report(f"{name}.block_weights", left, "of full", difference <= SIZE_TOLERANCE, 1 - level / 100)
        report(f"{name}.file", file_bytes(model) / size, "of full")
        report(f"{name}.latency", 1000 * statistics.median(one[level] for one in rounds) / ROWS, "ms a row")
        if level:
            speedup = statistics.median(one[0] / one[level] for one in rounds)
            bound = 1 + LEAST_SHARE_OF_IDEAL * (1 / left - 1)
            report(f"{name}.speedup", speedup, "x", speedup >= bound, round(bound, 4))


if __name__ == "__main__":
    main()
