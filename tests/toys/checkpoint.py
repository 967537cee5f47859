"""A student folder with a tokenizer, small enough to save, register and load in tests."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from toys.models import VOCABULARY, toy_distilbert

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def toy_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer whose words are ``w5``, ``w6``, ..."""
    words = [*_SPECIAL, *(f"w{number}" for number in range(len(_SPECIAL), VOCABULARY))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    roles = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **dict(zip(roles, _SPECIAL, strict=True)))


def save_student(folder: Path, *, seed: int = 1) -> Path:
    """Save a toy DistilBERT in float32 and its tokenizer."""
    toy_distilbert(2, seed=seed, dtype=torch.float32).save_pretrained(folder)
    toy_tokenizer().save_pretrained(folder)
    return folder
