"""Folders that hold an adapter of ``peft`` alone, whose weights are another checkpoint's."""

import json
import warnings
from pathlib import Path
from typing import Any

from raydistill.models import lora
from raydistill.models.blocks import family_of
from raydistill.models.heads import CLASSIFIERS, stored_head
from raydistill.models.load import load_config, load_model, load_tokenizer, reading, save_model, tensor_shapes
from raydistill.user_error import UserError

CONFIG = "adapter_config.json"
_HEADS = {task: head for head, task in lora._TASKS.items()}


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter."""
    return (folder / CONFIG).is_file()


def base_of(folder: Path) -> str:
    """What an adapter's configuration names as the model that it was trained on.

    Raises UserError for one that cannot be read, of another kind than LoRA, and whose weights are pickled or missing.
    """
    file = folder / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        kind, base = config["peft_type"], config["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{str(file)!r} is not a configuration of an adapter ({error!r}); fetch the adapter again"
        ) from None
    if kind != "LORA":
        raise UserError(f"{str(folder)!r} is an adapter of kind {kind}; only LORA is read, merge it first")
    if not (folder / lora.ADAPTER).is_file():
        raise UserError(f"{str(folder)!r} has no {lora.ADAPTER}; pickled weights are not read, save the adapter again")
    if not isinstance(base, str) or not base:
        raise UserError(f"{str(file)!r} names no base_model_name_or_path; write the folder of its base there")
    return base


def write_merged(folder: Path, base: Path, target: Path) -> None:
    """Write the adapter in ``folder``, added to the weights in ``base``, and a tokenizer to ``target``.

    The tokenizer is the adapter's, or the base's where the adapter has none.
    """
    lora.check_library()
    from peft import PeftModel

    task = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("task_type")
    head = _HEADS.get(task) or stored_head(load_config(base))
    model: Any = load_model(base, head=head, labels=_labels(folder, base, head), allow_new_head=True)
    with reading(f"{str(folder)!r} is not an adapter that peft can put on {str(base)!r}"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = lora.merged(PeftModel.from_pretrained(model, str(folder), local_files_only=True))
    has_tokenizer = any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt"))
    save_model(plain, load_tokenizer(folder if has_tokenizer else base), target)


def _labels(folder: Path, base: Path, head: str) -> list[str] | None:
    """Names for a classifier's outputs where the adapter has another number of them than its base; None elsewhere."""
    config = load_config(base)
    if head not in CLASSIFIERS:
        return None
    layer = family_of(config, head).OUTPUTS.get(head, "")
    shape = tensor_shapes(folder).get(f"base_model.model.{layer}.weight")
    if shape is None or shape[0] == config.num_labels:
        return None
    return [f"LABEL_{number}" for number in range(shape[0])]
