"""How good models are on held-out rows, all of them on the same masked tokens."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from raydistill.batch import Batch
from raydistill.data.stream import FeedSpec, held_out_batches
from raydistill.models.blocks import blocks_of
from raydistill.models.load import load_model

Figures = dict[str, float]


def evaluate_masked_lm(
    models: Mapping[str, str],
    corpus: str,
    *,
    task: Mapping[str, Any],
    seed: int,
    max_rows: int | None = None,
    batch_size: int = 32,
) -> dict[str, Figures]:
    """Figures of each checkpoint folder by the name it is given, on at most ``max_rows`` rows of a corpus.

    Keys: ``loss`` (mean cross-entropy at masked tokens, nats), ``perplexity`` (its exponential), ``accuracy``
    (share of masked tokens whose most likely id is right), ``tokens`` (masked tokens), ``parameters``.
    """
    spec = FeedSpec.make(corpus, task, None, seed=seed)
    batches = list(held_out_batches(spec, micro_batch_size=batch_size, num_rows=max_rows))
    return {name: masked_lm_figures(load_model(folder, head="masked_lm"), batches) for name, folder in models.items()}


@torch.no_grad()
def masked_lm_figures(model: nn.Module, batches: Iterable[Batch]) -> Figures:
    """Loss, perplexity and accuracy of one model in evaluation mode over batches with labels."""
    blocks = blocks_of(model.eval())
    loss, correct, tokens = 0.0, 0, 0
    for batch in batches:
        mask, labels = batch["attention_mask"], batch["labels"]
        hidden = blocks.run(blocks.embed(batch["input_ids"], mask), mask, 0, blocks.num_blocks)
        rows = hidden.flatten(0, 1).index_select(0, batch["label_index"])
        logits = nn.functional.linear(blocks.head_states(rows), *blocks.head_projection())
        loss += float(nn.functional.cross_entropy(logits.float(), labels, reduction="sum"))
        correct += int((logits.argmax(-1) == labels).sum())
        tokens += labels.shape[0]
    if tokens == 0:
        raise ValueError("no held-out token is masked; hold out more text, or raise task.mask_probability")
    mean = loss / tokens
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {
        "loss": mean,
        "perplexity": math.exp(mean),
        "accuracy": correct / tokens,
        "tokens": tokens,
        "parameters": parameters,
    }
