"""Files of weights without a configuration beside them, as published code leaves them, to checkpoints.

Causal-Distill extracts students to ``.pth`` and saves them so; Pea-KD and Causal-Distill-XXS save an encoder and a
classifier apart, ``BERT.encoder_acc.pkl`` with ``BERT.cls_acc.pkl``. Sources: frankaging/Causal-Distill @ 473600b,
frankaging/Causal-Distill-XXS @ eb75481, snudm-starlab/Pea-KD @ 0375288.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING

from raydistill.models.blocks import family_of
from raydistill.models.conversion import check_new, named, read_tensors, write_checkpoint
from raydistill.models.heads import has_head, model_class
from raydistill.models.layer_plan import make_plan, set_plan
from raydistill.models.load import reading
from raydistill.models.stored_tensors import own_names
from raydistill.user_error import UserError

SUFFIXES = (".pth", ".pkl", ".pt", ".bin")
_ENCODER, _CLASSIFIER = "encoder", "cls"
_HEADS = ("masked_lm", "causal_lm", "sequence_classification")
_BLOCK = re.compile(r"\.(?:layer|h)\.(\d+)\.")
_BUFFERS = (".position_ids", ".attn.bias", ".attn.masked_bias")
"""What transformers once stored beside weights and computes now."""
_OF_PREFIX = {"distilbert": "distilbert", "roberta": "roberta", "transformer": "gpt2", "bert": "bert"}
"""Type of a model by what its tensors' names start with."""
_CONFIG_FILES = ("config.json", "bert_config.json")


@dataclass(frozen=True)
class FromFile:
    """What a file of weights became."""

    num_tensors: int
    lacks: tuple[str, ...]
    """Names of the head's tensors that the file has not."""


def weights_file_at(place: Path) -> Path | None:
    """The file of weights that a path means, None for a folder or another file."""
    return place if place.suffix in SUFFIXES and not place.is_dir() else None


def file_to_safetensors(
    file: Path,
    target: Path,
    *,
    config: Path | None,
    labels: Sequence[str] | None = None,
    layer_plan: str | None = None,
) -> FromFile:
    """Write the weights in ``file``, an encoder's with its classifier's beside it, to ``target``, for ``load_model``.

    ``config`` is the configuration's file, or a folder with it and a tokenizer; blocks and classes are as many as the
    tensors have. ``layer_plan`` names the plan of blocks that run twice, of which the file has each once. Tensors alone
    are read, nothing in a pickle is run. Raises ValueError for a file with anything else, for one that is no model of
    this configuration, by what is wrong, and for a target that is there.
    """
    if not file.is_file():
        raise UserError(f"{str(file)!r} is not there; give a file of weights")
    check_new(target)
    if config is None:
        raise UserError(f"{str(file)!r} has only weights; give its configuration as --config")
    tensors = _whole(file)
    made = _configured(_config_file(config), tensors)
    if layer_plan is not None:
        set_plan(made, make_plan(layer_plan, made.num_hidden_layers))
        family_of(made).check_plan(made)
    if labels is not None:
        made = named(made, labels)
    wanted, made.architectures = _model_of(file, made, tensors)
    lacks = _checked(file, made, tensors, wanted)
    origin = config if config.is_dir() else config.parent
    return FromFile(write_checkpoint(tensors, made, origin, target), lacks)


def _whole(file: Path) -> dict[str, Tensor]:
    """The tensors of a file, and of an encoder's those of the classifier beside it, under transformers' names."""
    found = dict(read_tensors(file))
    if _ENCODER in file.name:
        beside = file.with_name(file.name.replace(_ENCODER, _CLASSIFIER))
        if not beside.is_file():
            raise UserError(f"{str(file)!r} has no {beside.name} beside it, the classifier of the encoder; add it")
        found |= read_tensors(beside)
    plain = {name.removeprefix("module."): tensor for name, tensor in found.items()}
    return {new: plain[old] for old, new in own_names(plain).items() if not new.endswith(_BUFFERS)}


def _config_file(place: Path) -> Path:
    files = [place / name for name in _CONFIG_FILES] if place.is_dir() else [place]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise UserError(f"{str(place)!r} has no {_CONFIG_FILES[0]}; name the configuration of the weights")
    return found


def _configured(file: Path, tensors: Mapping[str, Tensor]) -> Any:
    """The configuration in a file, with the blocks and classes that the tensors have."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{str(file)!r} is not JSON ({error}); name the configuration of the weights") from None
    if not isinstance(content, dict):
        raise UserError(f"{str(file)!r} is not a configuration; name that of the weights")
    kind = content.pop("model_type", None) or _OF_PREFIX.get(next(iter(tensors), "").partition(".")[0])
    if kind not in CONFIG_MAPPING:
        raise UserError(f"{str(file)!r} has no model_type that transformers knows, but {kind!r}; correct it")
    with reading(f"{str(file)!r} is not a configuration of a {kind} model"):
        config = CONFIG_MAPPING[kind](**content)
        blocks = [int(found[1]) for name in tensors if (found := _BLOCK.search(name))]
        config.num_hidden_layers = max(blocks, default=-1) + 1
        classifier = tensors.get("classifier.weight")
        if classifier is not None:
            config.num_labels = len(classifier)
    return config


def _model_of(file: Path, config: Any, names: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """Shapes of the tensors of the model that has all these names, and its class; raises ValueError where none has."""
    unknown: list[str] = []
    for head in _HEADS:
        if not has_head(config.model_type, head):
            continue
        with torch.device("meta"):
            model = model_class(head).from_config(config)
        wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
        others = sorted(set(names) - wanted.keys())
        if not others:
            return wanted, [type(model).__name__]
        unknown = others if not unknown or len(others) < len(unknown) else unknown
    raise UserError(f"{str(file)!r} has {unknown[0]}, which no {config.model_type} model has; give its configuration")


def _checked(file: Path, config: Any, tensors: Mapping[str, Tensor], wanted: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the tensors of the head that are missing; raises ValueError for others, and for other shapes."""
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name]:
            raise UserError(
                f"{str(file)!r} has {name} of shape {tuple(tensor.shape)}, its configuration says "
                f"{tuple(wanted[name])}; give the configuration of these weights"
            )
    missing = [name for name in wanted if name not in tensors and not name.endswith(_BUFFERS)]
    prefix = family_of(config).LAYERS.partition(".")[0] + "."
    of_encoder = [name for name in missing if name.startswith(prefix) and ".pooler." not in name]
    if of_encoder:
        raise UserError(f"{str(file)!r} lacks {of_encoder[0]}; give a file with all weights of its encoder")
    return tuple(missing)
