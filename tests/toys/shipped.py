"""Stand-ins for what shipped jobs need and a test has not: a hub, a registry, users' own files and GPUs."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from transformers import BertConfig, GPT2Config, PreTrainedTokenizerFast, Qwen3Config

from raydistill import cluster
from raydistill.job import record
from raydistill.models.blocks import family_of
from raydistill.models.load import model_class
from raydistill.stages import _models
from raydistill.user_error import UserError

HUB = {
    "google-bert/bert-base-uncased": BertConfig(),
    "google-bert/bert-large-uncased": BertConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
    ),
    "openai-community/gpt2": GPT2Config(),
    # Heads of billions of parameters would take minutes to write.
    "Qwen/Qwen3-8B-Base": Qwen3Config(vocab_size=1000, hidden_size=64, num_hidden_layers=36, tie_word_embeddings=False),
    "Qwen/Qwen3-1.7B-Base": Qwen3Config(
        vocab_size=1000, hidden_size=32, num_hidden_layers=28, tie_word_embeddings=True
    ),
}
"""Checkpoints of the hub that jobs name."""

_OF_REGISTRY = {"models:/causal-bert-student@candidate": "google-bert/bert-base-uncased"}
"""Registered models that jobs name, and the checkpoint whose sizes theirs have."""

OWN_MODELS = {"models/chinese-bert-wwm-ext": BertConfig(vocab_size=21128)}
_OWN_FILES = {f"data/cnews/cnews.{part}.csv": "label\tsentence\n体育\t一 句\n" for part in ("train", "val", "test")}
_OWN_FILES["data/prompts.jsonl"] = '{"instruction": "w7 w8", "response": "w9"}\n'
"""What users of a job have beside it."""


@contextmanager
def standing_in(checkpoints: dict[str, Path]) -> Iterator[None]:
    """In the block ``checkpoints``, by name, are the hub's, the registry has their models, and there are 4 GPUs.

    Any other name is asked for as it always is.
    """
    from_hub, from_registry = _models._from_hub, record.checkpoint_folder

    def of_hub(name: str, revision: str | None) -> Path:
        if name not in checkpoints:
            return from_hub(name, revision)
        if not re.fullmatch("[0-9a-f]{40}", revision or ""):
            raise UserError(f"{name} is not pinned to a revision")
        return checkpoints[name]

    def of_registry(reference: str, *arguments: Any, **options: Any) -> Path:
        if reference not in _OF_REGISTRY:
            return from_registry(reference, *arguments, **options)
        return checkpoints[_OF_REGISTRY[reference]]

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(_models, "_from_hub", of_hub))
        stack.enter_context(mock.patch.object(record, "checkpoint_folder", of_registry))
        stack.enter_context(mock.patch.object(cluster.resources, "_available_resources", return_value={"GPU": 4}))
        yield


def save_hub(folder: Path) -> dict[str, Path]:
    """Folders of the hub's checkpoints by name: a configuration, a tokenizer of as many ids and the head's weights."""
    folders = {name: folder / str(number) for number, name in enumerate(HUB)}
    for name, config in HUB.items():
        _save(config, folders[name])
    return folders


def save_own_files(folder: Path) -> Path:
    """Put the files that users of a job have into a folder."""
    for name, config in OWN_MODELS.items():
        _save(config, folder / name)
    for name, text in _OWN_FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def _save(config: Any, folder: Path) -> None:
    config.save_pretrained(folder)
    family = family_of(config)
    with torch.device("meta"):
        shapes = model_class(family.HEAD).from_config(config).state_dict()
    names = family.head_tensors(config, family.HEAD)
    save_file({name: torch.zeros(shapes[name].shape) for name in names}, folder / "model.safetensors")
    _tokenizer(config.vocab_size).save_pretrained(folder)


def _tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    roles = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token", "eos_token")
    words = [*roles, *(f"w{number}" for number in range(len(roles), vocab_size))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=roles[1]))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{role: role for role in roles})
