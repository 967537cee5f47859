"""Checkpoints of llama.cpp, one file of quantized weights with a tokenizer, to safetensors by transformers' reader."""

import hashlib
import io
from collections.abc import Sequence
from contextlib import redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer

from raydistill.atomic import first_folder
from raydistill.models.heads import has_head, model_class
from raydistill.models.load import check_family, quiet_transformers, reading, save_model
from raydistill.user_error import UserError

SUFFIX = ".gguf"
_MAGIC = b"GGUF"
_HEAD = "causal_lm"
"""What such files are made for."""


def gguf_at(place: Path) -> Path | None:
    """The file that a path means: itself, or the only one in a folder without a config.json; None where it means none.

    A path that ends as such files do means itself, also where nothing is. Raises ValueError for a folder with several.
    """
    if place.suffix == SUFFIX and not place.is_dir():
        return place
    if not place.is_dir() or (place / "config.json").is_file():
        return None
    found = sorted(path for path in place.glob(f"*{SUFFIX}") if path.is_file())
    if len(found) > 1:
        raise UserError(f"{str(place)!r} has {len(found)} {SUFFIX} files; name one, such as {found[0].name}")
    return found[0] if found else None


def kept_checkpoint(file: Path, folder: Path) -> Path:
    """The checkpoint that ``gguf_to_safetensors`` makes of a file, made once below ``folder`` for its content."""
    _check_file(file)
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    target = folder / f"{file.stem}-{digest[:16]}"
    if not target.is_dir():
        gguf_to_safetensors(file, target)
    return target


def gguf_to_safetensors(file: Path, target: Path, *, labels: Sequence[str] | None = None) -> int:
    """Write the language model in a GGUF file and its tokenizer to ``target``, for ``load_model``.

    Weights are what the quantized ones stand for, in float32. Returns the number of tensors. ``target`` is there as a
    whole or not at all. Raises ValueError for a file that is none, or cut off, a model that transformers cannot read
    from such a file, one without a language model's head, and where the package gguf is not installed.
    """
    if labels is not None:
        raise UserError("--labels names classes, and a GGUF file has a language model; leave it out")
    _check_file(file)
    if target.exists():
        raise UserError(f"{str(target)!r} exists; give another name or remove it")
    # The bar that transformers draws over the weights of a file cannot be turned off.
    quiet = redirect_stderr(io.StringIO())
    with quiet, quiet_transformers(), reading(f"{str(file)!r} is not a GGUF file that transformers can read"):
        model, tokenizer = _read(file)
    with first_folder(target) as whole:
        save_model(model, tokenizer, whole)
    return len(model.state_dict())


def _check_file(file: Path) -> None:
    if not file.is_file():
        raise UserError(f"{str(file)!r} is not a file; correct it")
    with file.open("rb") as stream:
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise UserError(f"{str(file)!r} is not a GGUF file: it does not start with GGUF; fetch it again")
    if find_spec("gguf") is None:
        raise UserError(f"{str(file)!r} needs the package gguf, which is not installed; pip install 'raydistill[gguf]'")


def _read(file: Path) -> tuple[Any, Any]:
    """Model and tokenizer of a file, as plain ones of transformers."""
    where = {"gguf_file": file.name, "local_files_only": True}
    config = AutoConfig.from_pretrained(file.parent, **where)
    if not has_head(config.model_type, _HEAD):
        raise UserError(f"{str(file)!r} is a {config.model_type} model; a GGUF file is read as a language model")
    check_family(config, head=_HEAD, of=file)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, **where)
    # Newer versions of transformers may leave weights as they are packed, where a kernel computes with them.
    packing = getattr(transformers, "GgufConfig", None)
    unpacked = {} if packing is None else {"quantization_config": packing(dequantize=True)}
    found, info = model_class(_HEAD).from_pretrained(
        file.parent, dtype=torch.float32, output_loading_info=True, **where, **unpacked
    )
    missing = sorted(info["missing_keys"])
    if missing:
        raise UserError(f"{str(file)!r} lacks {missing[0]}; fetch it again, or choose another file")
    # A model of the same class that remembers nothing of the file: transformers does not save one that does.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        model = model_class(_HEAD).from_config(config)
    model.load_state_dict(found.state_dict(), assign=True)
    model.generation_config = found.generation_config
    return model, tokenizer
