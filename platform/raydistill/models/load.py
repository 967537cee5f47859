"""Checkpoints in and out: transformers folders, safetensors only, never code from outside."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

_HEADS: dict[str, Any] = {"masked_lm": AutoModelForMaskedLM}
_DROPOUT_FIELDS = (
    "dropout",
    "attention_dropout",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "seq_classif_dropout",
)


def load_config(folder: str | Path) -> Any:
    """The transformers configuration in a checkpoint folder; raises ValueError when there is none."""
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"{str(folder)!r} is no checkpoint: it has no config.json")
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except (ValueError, OSError) as error:
        raise ValueError(f"{str(folder)!r} is no checkpoint that transformers knows: {error}") from None


def without_dropout(config: Any, dropout: float) -> Any:
    """The configuration with every dropout of its family set to ``dropout``; changes ``config`` and returns it."""
    for name in _DROPOUT_FIELDS:
        if getattr(config, name, None) is not None:
            setattr(config, name, dropout)
    return config


def load_model(
    folder: str | Path,
    *,
    head: str,
    dropout: float | None = None,
    allow_new_head: bool = False,
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """A model with the named head (``masked_lm``), in evaluation mode.

    ``dropout`` replaces what the checkpoint says. Raises ValueError when the checkpoint lacks the head's weights,
    unless ``allow_new_head``, or when it has no safetensors file.
    """
    config = load_config(folder)
    if dropout is not None:
        without_dropout(config, dropout)
    if not any(Path(folder).glob("*.safetensors")):
        raise ValueError(f"{str(folder)!r} has no .safetensors file; convert the checkpoint to safetensors first")
    transformers_logging.disable_progress_bar()
    model, info = _HEADS[head].from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        attn_implementation="sdpa",
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
    )
    missing = sorted(info["missing_keys"])
    if missing and not allow_new_head:
        raise ValueError(f"{str(folder)!r} lacks {missing[0]}; choose a checkpoint with its head, or write head: new")
    loaded: nn.Module = model.eval()
    return loaded


def load_tokenizer(folder: str | Path) -> Any:
    """The fast tokenizer in a folder; raises ValueError when there is none."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, use_fast=True)
    except (ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{str(folder)!r} has no tokenizer that transformers can load: {reason}") from None
    if not tokenizer.is_fast:
        raise ValueError(f"{str(folder)!r} has no fast tokenizer; add its tokenizer.json")
    return tokenizer


def save_model(model: Any, tokenizer: Any, folder: str | Path) -> None:
    """Write model and tokenizer so that plain transformers loads them from ``folder``."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
