"""Checkpoints with a pickled file of weights, as they were published for years, to safetensors."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from raydistill.atomic import first_folder
from raydistill.models.classes import with_classes
from raydistill.models.kept_units import kept_of
from raydistill.models.load import load_config
from raydistill.models.published_sparsity import cut_to, kept_at
from raydistill.models.stored_tensors import PRUNED_WEIGHTS, PUBLISHED_CLASS, WEIGHTS, is_published, own_names
from raydistill.user_error import UserError, placed

PICKLED_WEIGHTS = "pytorch_model.bin"
"""What transformers called the file of weights before safetensors."""
TOKENIZER_FILES = ("*.txt", "*.model", "tokenizer*.json", "vocab.json", "special_tokens_map.json", "added_tokens.json")


def to_safetensors(
    folder: str | Path, target: str | Path, *, labels: Sequence[str] | None = None, sparsity: str | None = None
) -> int:
    """Write the checkpoint in ``folder``, whose weights are pickled, to ``target``, for ``load_model``.

    Tensors alone are read: torch refuses a pickle with anything else before it has an effect. Classifiers that StarK's
    authors published become those of transformers, by name and tensors, and those that their code has cut to a
    sparsity become pruned models; ``sparsity`` names one of a whole checkpoint's map to cut it to. ``labels`` names the
    outputs of a classifier in their order. Returns the number of tensors. ``target`` is there as a whole or not at all.
    Raises ValueError for a folder without such a file, a file with more than tensors, a map that the tensors do not
    fit, and a target that is there.
    """
    file = Path(folder) / PICKLED_WEIGHTS
    config = load_config(folder)
    if not file.is_file():
        raise UserError(f"{str(folder)!r} has no {PICKLED_WEIGHTS}; choose the folder of a pickled checkpoint")
    check_new(target)
    if labels is not None:
        config = named(config, labels)
    found = read_tensors(file)
    if is_published(found):
        config.architectures = [PUBLISHED_CLASS]
    tensors = {new: found[old] for old, new in own_names(found).items()}
    with placed(repr(str(folder))):
        kept = kept_at(config, sparsity)
        if kept is not None:
            tensors = cut_to(tensors, config, kept)
    return write_checkpoint(tensors, config, Path(folder), Path(target))


def check_new(target: str | Path) -> None:
    """Raise ValueError for a folder that is there."""
    if Path(target).exists():
        raise UserError(f"{str(target)!r} exists; give another name or remove it")


def write_checkpoint(tensors: Mapping[str, Tensor], config: Any, origin: Path, target: Path) -> int:
    """Write tensors and a configuration, and the tokenizer's files of the folder ``origin``, as ``target``.

    ``target`` is there as a whole or not at all. Returns the number of tensors.
    """
    # Tied tensors are one in memory, which safetensors does not write.
    written = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    file = WEIGHTS if kept_of(config) is None else PRUNED_WEIGHTS
    with first_folder(target) as whole:
        save_file(written, whole / file, metadata={"format": "pt"})
        config.save_pretrained(whole)
        for pattern in TOKENIZER_FILES:
            for found in origin.glob(pattern):
                shutil.copyfile(found, whole / found.name)
    return len(written)


def named(config: Any, labels: Sequence[str]) -> Any:
    """A classifier's configuration with names for its outputs."""
    if len(labels) != config.num_labels:
        raise UserError(f"labels names {len(labels)} classes, the checkpoint has {config.num_labels}; name each")
    if not all(labels):
        raise UserError("labels has a name without a letter; name each class")
    if len(set(labels)) < len(labels):
        raise UserError(f"labels has a name twice ({', '.join(labels)}); name each class once")
    return with_classes(config, labels)


def read_tensors(file: Path) -> Mapping[str, Tensor]:
    """The tensors in a pickled file by their names; raises ValueError, in one line, for a file with anything else."""
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # A file that is none can make torch and pickle raise anything; torch's own advice, which comes first, is to run
        # what the file holds.
        text = str(error).rpartition("WeightsUnpickler error: ")[2].strip()
        reason = text.partition("\n")[0] or type(error).__name__
        raise UserError(f"{str(file)!r} is not a file of tensors ({reason}); fetch the checkpoint again") from None
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise UserError(f"{str(file)!r} holds more than tensors by their names; choose a file of a model's weights")
    return found
