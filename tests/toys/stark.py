"""The published small classifier of StarK: its weights, its batch and how the specification draws them."""

import json

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import BertConfig, BertModel

from raydistill.batch import Batch, collate
from raydistill.models.load import load_model

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
