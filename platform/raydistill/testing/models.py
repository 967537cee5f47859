"""Models and batches small enough for unit tests, with weights large enough that every part shows in the loss."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM, DistilBertConfig, DistilBertForMaskedLM

from raydistill import draws
from raydistill.batch import PARTNER, Batch, add_partners, collate

VOCABULARY = 61
PAD = 0
MASK = 4
LENGTHS = (9, 14, 11, 17, 10, 13)
PARTNER_LENGTHS = (16, 8, 12, 13, 17, 9)


def perturb(model: nn.Module, seed: int, dtype: torch.dtype) -> nn.Module:
    """Move biases and norms off the values that would hide their gradients."""
    generator = torch.Generator().manual_seed(seed)
    model.to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(dtype)
                parameter.add_(0.2 * noise)
    return model.train()


def toy_bert(
    num_layers: int, *, hidden_size: int = 16, seed: int = 0, dropout: float = 0.0, dtype: torch.dtype = torch.float64
) -> Any:
    """A BERT masked-LM model with 2 heads."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=40,
        initializer_range=0.3,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return perturb(BertForMaskedLM(config), seed, dtype)


def toy_distilbert(
    num_layers: int, *, hidden_size: int = 16, seed: int = 1, dropout: float = 0.0, dtype: torch.dtype = torch.float64
) -> Any:
    """A DistilBERT masked-LM model with 2 heads."""
    torch.manual_seed(seed)
    config = DistilBertConfig(
        vocab_size=VOCABULARY,
        dim=hidden_size,
        n_layers=num_layers,
        n_heads=2,
        hidden_dim=24,
        max_position_embeddings=40,
        initializer_range=0.3,
        dropout=dropout,
        attention_dropout=dropout,
    )
    return perturb(DistilBertForMaskedLM(config), seed, dtype)


def _ids(stream: str, row: int, length: int) -> np.ndarray:
    return np.asarray(5 + draws.integers(stream, row, np.arange(length), high=VOCABULARY - 5))


def toy_batch(rows: Sequence[int] = range(len(LENGTHS)), *, seed: int = 3, epoch: int = 0, step: int = 0) -> Batch:
    """Rows with partners, masked tokens in both; each row's content depends on its number alone."""
    batch = collate(
        [_ids("base", row, LENGTHS[row]) for row in rows], list(rows), pad_id=PAD, seed=seed, epoch=epoch, step=step
    )
    partners = [_ids("partner", row, PARTNER_LENGTHS[row]) for row in rows]
    batch = add_partners(batch, partners, np.asarray(rows) + 100, pad_id=PAD)
    return batch.with_columns(**_masked(batch, "", rows), **_masked(batch, PARTNER, rows))


def _masked(batch: Batch, prefix: str, rows: Sequence[int]) -> dict[str, torch.Tensor]:
    """Some tokens of each row masked, its second always."""
    ids = batch[prefix + "input_ids"]
    position = np.arange(ids.shape[1])
    masked = draws.uniform(prefix + "masked", np.asarray(rows)[:, None], position) < 0.25
    masked |= np.equal(position, 1)
    index = torch.from_numpy(np.flatnonzero(masked & batch[prefix + "attention_mask"].numpy()))
    flat = ids.flatten()
    columns = {"labels": flat[index], "label_index": index, "input_ids": flat.index_fill(0, index, MASK).view_as(ids)}
    return {prefix + name: column for name, column in columns.items()}


def pad_further(batch: Batch, extra: int) -> Batch:
    """The batch with ``extra`` more columns of padding on the base and on the partners."""
    columns = dict(batch.columns)
    # Without partners of their own, rows have each other.
    of_base, of_partner = ["interchange_base"], ["interchange_partner"]
    if PARTNER + "input_ids" not in columns:
        of_base += of_partner
    for prefix, index_columns in (
        ("", ["token_index", "label_index", *of_base]),
        (PARTNER, ["partner_token_index", "partner_label_index", *of_partner]),
    ):
        if prefix + "input_ids" not in columns:
            continue
        ids = columns[prefix + "input_ids"]
        width = ids.shape[1]
        columns[prefix + "input_ids"] = nn.functional.pad(ids, (0, extra), value=PAD)
        columns[prefix + "attention_mask"] = nn.functional.pad(columns[prefix + "attention_mask"], (0, extra))
        for name in index_columns:
            if name in columns:
                flat = columns[name]
                columns[name] = flat // width * (width + extra) + flat % width
    return batch.with_columns(**columns)


def parameter_gradients(loss: torch.Tensor, model: nn.Module) -> dict[str, torch.Tensor]:
    """Gradient of every parameter that is not frozen by name, zeros where the loss does not reach it."""
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(named, gradients, strict=True))


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Largest absolute difference over all entries of two dicts with the same keys."""
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)
