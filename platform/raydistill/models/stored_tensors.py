"""Checkpoints that transformers cannot open by itself: pruned models, and models that StarK's authors published.

Source of the published names: code GeneZC/StarK @ ac1e8d1, whose classifiers are ``cls.0``, a dense layer, tanh,
dropout and ``cls.3`` on the first token's states, beside a pooler of the encoder that nothing reads.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from raydistill.models.kept_units import kept_of
from raydistill.models.small_shapes import shrink

WEIGHTS = "model.safetensors"
"""The file that transformers looks for."""
PRUNED_WEIGHTS = "pruned.safetensors"
"""The file of a pruned model: transformers, which would draw what it misses at random, does not find it."""
PUBLISHED_CLASS = "BertForSequenceClassification"
"""The transformers class that a published classifier is."""
_PUBLISHED = {"cls.0": "bert.pooler.dense", "cls.3": "classifier"}
_HEAD = {f"{old}.{kind}": f"{new}.{kind}" for old, new in _PUBLISHED.items() for kind in ("weight", "bias")}
_OLD_NORMS = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


def own_names(names: Iterable[str]) -> dict[str, str]:
    """For each tensor of a checkpoint its name in transformers, without the idle pooler of a published classifier.

    Norms of checkpoints as old as TensorFlow's BERT have ``gamma`` and ``beta``, and transformers saves them so again.
    """
    found = list(names)
    if not is_published(found):
        return {name: _modern(name) for name in found}
    return {name: _HEAD.get(name, _modern(name)) for name in found if name not in _HEAD.values()}


def _modern(name: str) -> str:
    for old, new in _OLD_NORMS.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def is_published(names: Iterable[str]) -> bool:
    """Whether a checkpoint's tensors are those of a published classifier."""
    return _HEAD.keys() <= set(names)


def open_tensors(
    made: type[Any], config: Any, files: Iterable[Path], *, dtype: torch.dtype
) -> tuple[nn.Module, dict[str, list[Any]]]:
    """A model of a transformers class in its small shape, with the tensors of safetensors files, on the CPU.

    What the files lack is drawn from torch's generator. Also returns ``missing_keys``, and ``mismatched_keys`` with
    both shapes, as transformers does.
    """
    config._attn_implementation = "sdpa"
    # Not from_pretrained, which knows neither these shapes nor these names.
    model = made(config).to(dtype)
    kept = kept_of(config)
    if kept is not None:
        shrink(model, kept)
    tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
    stored = {new: tensors[old] for old, new in own_names(tensors).items()}
    own = model.state_dict(keep_vars=True)
    mismatched = [
        (name, tuple(tensor.shape), tuple(own[name].shape))
        for name, tensor in stored.items()
        if name in own and own[name].shape != tensor.shape
    ]
    unfit = {name for name, *_ in mismatched}
    loaded = {name: tensor for name, tensor in stored.items() if name in own and name not in unfit}
    model.load_state_dict(loaded, strict=False)
    # Tied tensors are stored once.
    filled = {id(own[name]) for name in (*loaded, *unfit)}
    missing = [name for name, tensor in own.items() if name not in stored and id(tensor) not in filled]
    return model, {"missing_keys": missing, "mismatched_keys": mismatched}
