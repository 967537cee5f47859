"""The padded batch of transformers that says the same as a packed one of the platform, written from its definition."""

from typing import Any

import torch
from torch import Tensor

from raydistill.batch import PARTNER, Batch


def padded(batch: Batch, head: str) -> dict[str, Tensor]:
    """What a data collator would make of the rows of a prepared batch, for a model with this head."""
    found = _padded(batch, "", head)
    if PARTNER + "input_ids" in batch:
        found |= _padded(batch, PARTNER, head)
    return found | {"row_id": batch["row_id"]}


def _padded(batch: Batch, prefix: str, head: str) -> dict[str, Tensor]:
    mask = batch[prefix + "attention_mask"]
    found = {"input_ids": batch[prefix + "input_ids"], "attention_mask": mask.long()}
    if prefix + "token_types" in batch:
        types = torch.zeros_like(mask, dtype=torch.long)
        types[mask] = batch[prefix + "token_types"]
        found["token_type_ids"] = types
    if prefix + "labels" in batch:
        found |= _labels(batch[prefix + "labels"], batch.get(prefix + "label_index"), mask, head)
    return {prefix + name: column for name, column in found.items()}


def _labels(labels: Tensor, index: Tensor | None, mask: Tensor, head: str) -> dict[str, Tensor]:
    if head == "question_answering":
        first, last = labels.chunk(2)
        return {"start_positions": first, "end_positions": last}
    if head == "sequence_classification":
        return {"labels": labels}
    places = torch.full_like(mask, -100, dtype=torch.long).flatten()
    places[index + (head == "causal_lm")] = labels
    return {"labels": places.view_as(mask)}


def moved_left(batch: dict[str, Tensor]) -> dict[str, Any]:
    """The same rows with their padding on the left."""
    mask = batch["attention_mask"].bool()
    order = torch.argsort(mask, dim=1, stable=True)
    return {name: column.gather(1, order) if column.shape == mask.shape else column for name, column in batch.items()}
