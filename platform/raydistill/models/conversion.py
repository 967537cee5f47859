"""Checkpoints with a pickled file of weights, as they were published for years, to safetensors."""

import pickle
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from raydistill.models.classes import with_classes
from raydistill.models.load import load_config
from raydistill.models.stored_tensors import WEIGHTS, own_names

PICKLED_WEIGHTS = "pytorch_model.bin"
"""What transformers called the file of weights before safetensors."""
_TOKENIZER_FILES = ("*.txt", "*.model", "tokenizer*.json", "special_tokens_map.json", "added_tokens.json")


def to_safetensors(folder: str | Path, target: str | Path, *, labels: Sequence[str] | None = None) -> None:
    """Write the checkpoint in ``folder``, whose weights are pickled, to ``target``, for ``load_model``.

    Tensors alone are read: torch refuses a pickle with anything else before it has an effect. Those of classifiers
    that StarK's authors published get the names that transformers has for them. ``labels`` names the outputs of a
    classifier in their order. Raises ValueError for a folder without such a file, or a file with more than tensors.
    """
    file, made = Path(folder) / PICKLED_WEIGHTS, Path(target)
    config = load_config(folder)
    if not file.is_file():
        raise ValueError(f"{str(folder)!r} has no {PICKLED_WEIGHTS}; choose the folder of a pickled checkpoint")
    if labels is not None:
        if len(labels) != config.num_labels:
            raise ValueError(f"labels names {len(labels)} classes, the checkpoint has {config.num_labels}; name each")
        config = with_classes(config, labels)
    tensors = _tensors(file)
    # Tied tensors are one in memory, which safetensors does not write.
    renamed = {new: tensors[old].clone().contiguous() for old, new in own_names(tensors).items()}
    made.mkdir(parents=True, exist_ok=True)
    save_file(renamed, made / WEIGHTS, metadata={"format": "pt"})
    config.save_pretrained(made)
    for pattern in _TOKENIZER_FILES:
        for found in Path(folder).glob(pattern):
            shutil.copyfile(found, made / found.name)


def _tensors(file: Path) -> Mapping[str, Tensor]:
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{str(file)!r} is no file of tensors ({reason}); fetch the checkpoint again") from None
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise ValueError(f"{str(file)!r} holds more than tensors by their names; choose a file of a model's weights")
    return found
