"""The published small classifier of StarK: its weights, its batch, how they are drawn, and masks over its units."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from raydistill.batch import Batch, collate
from raydistill.models.load import load_model
from raydistill.models.unit_masks import check_units, units_seen

IDS = [[2, 7, 9, 11, 3, 0, 0, 0], [2, 21, 5, 30, 8, 14, 3, 0], [2, 4, 6, 3, 0, 0, 0, 0]]
SEGMENTS = [[0, 0, 0, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 0, 0, 0, 0]]
LABELS = [0, 1, 1]


def published_config(num_layers: int = 2) -> BertConfig:
    """The specification's configuration C."""
    return BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def published_tensors(num_layers: int = 2, *, base: int = 1000, num_labels: int = 2) -> dict[str, torch.Tensor]:
    """Weights filled by F under the published names, the encoder's idle pooler among them."""
    encoder = BertModel(published_config(num_layers))
    shapes = {f"bert.{name}": tuple(parameter.shape) for name, parameter in encoder.named_parameters()}
    shapes |= {"cls.0.weight": (32, 32), "cls.0.bias": (32,)}
    shapes |= {"cls.3.weight": (num_labels, 32), "cls.3.bias": (num_labels,)}
    tensors = {}
    for number, name in enumerate(sorted(shapes)):
        drawn = np.random.RandomState(base + number).standard_normal(int(np.prod(shapes[name])))
        value = torch.tensor((0.15 * drawn).astype(np.float32)).reshape(shapes[name])
        tensors[name] = value + 1 if name.endswith("LayerNorm.weight") else value
    return tensors


def published_folder(folder, num_layers: int = 2, *, base: int = 1000, num_labels: int = 2):
    """A checkpoint as published: those tensors beside the configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    config = published_config(num_layers)
    config.num_labels = num_labels
    written = {**config.to_dict(), "sparsity": "0", "sparsity_map": {}}
    (folder / "config.json").write_text(json.dumps(written), encoding="utf-8")
    save_file(published_tensors(num_layers, base=base, num_labels=num_labels), folder / "model.safetensors")
    return folder


def published_model(folder, num_layers: int = 2, **options) -> nn.Module:
    """The model in float64, opened as users open it."""
    made = published_folder(folder, num_layers, **options)
    return load_model(made, head="sequence_classification", dtype=torch.float64)


def published_batch(rows=(0, 1, 2)) -> Batch:
    """Rows of the specification's batch X with their labels."""
    ids = [np.array([token for token in IDS[row] if token]) for row in rows]
    batch = collate(ids, list(rows), pad_id=0)
    width = batch["input_ids"].shape[1]
    types = torch.tensor(SEGMENTS)[list(rows), :width].flatten()[batch["token_index"]]
    return batch.with_columns(token_types=types, labels=torch.tensor(LABELS)[list(rows)])


@contextmanager
def head_and_neuron_masks(
    model: nn.Module, *, heads: Tensor | None = None, neurons: Tensor | None = None, row: Tensor | None = None
) -> Iterator[None]:
    """Inside, masks multiply the units of a model that is not pruned; their gradients are those of the masks.

    Shapes: ``heads`` (L, H) and ``neurons`` (L, F) for all rows; or (B, L, H) and (B, L, F), one a row: of padded
    states (B, T, D), and with ``row`` (R,), the row of each state, of packed ones (1, R, D).
    """
    check_units(model.config)

    def of_heads(number: int, states: Tensor) -> Tensor:
        if heads is None:
            return states
        split = states.unflatten(-1, (heads.shape[-1], -1))
        return (split * _mask_of(heads, number, row)[..., None]).flatten(-2)

    def of_neurons(number: int, states: Tensor) -> Tensor:
        return states if neurons is None else states * _mask_of(neurons, number, row)

    with units_seen(model, of_heads, of_neurons):
        yield


def _mask_of(masks: Tensor, number: int, row: Tensor | None) -> Tensor:
    """A block's mask with the dimensions of states before the units: (U,), (B, 1, U) or (R, U)."""
    mask = masks[..., number, :]
    if masks.dim() == 2:
        return mask
    return mask[:, None] if row is None else mask.index_select(0, row)
