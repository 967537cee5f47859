"""A tokenizer of letters beside the toy one of words, corpora in the ids of both, and a teacher that reads letters."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import BertForSequenceClassification, PreTrainedTokenizerFast

from raydistill.data.corpus import Corpus, tokenizer_hash, tokenizer_info
from raydistill.data.corpus_building import _digests, _tokenizer_files
from raydistill.data.teacher_tokenizers import further_columns, further_values
from raydistill.models.classes import with_classes
from raydistill.models.load import save_model
from raydistill.tasks import classification
from toys.classifiers import CLASSES, toy_classifier
from toys.corpus import write_corpus
from toys.models import perturb, toy_bert
from toys.words import make_tokenizer

_WORDS = (*reversed("w0123456789"), "[MASK]", "[SEP]", "[CLS]", "[UNK]", "[PAD]")
NUM_LETTERS = len(_WORDS)
LETTERS_PAD = NUM_LETTERS - 1
LONGEST = 30
"""Longest row in letters; most texts are longer and are cut."""
ENCODE = classification.EncodeConfig(labels=CLASSES, max_length=40)


def make_letters() -> PreTrainedTokenizerFast:
    """A tokenizer whose ids are the letters of the toy words; a row of it is longer and no id means the same."""
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(_WORDS)}, unk_token="[UNK]"))
    split = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), split])
    special = [(word, _WORDS.index(word)) for word in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=special
    )
    roles = {f"{word[1:-1].lower()}_token": word for word in _WORDS[-5:]}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=40, **roles)


def letters_model(
    num_layers: int = 2,
    *,
    labels: Sequence[str] = CLASSES[::-1],
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> nn.Module:
    """A BERT that reads letters and knows the toy classes, by default in another order than corpora have them."""
    config = with_classes(toy_bert(num_layers, seed=seed).config, labels)
    config.vocab_size, config.pad_token_id = NUM_LETTERS, LETTERS_PAD
    torch.manual_seed(seed)
    return perturb(BertForSequenceClassification(config), seed, dtype)


def save_letters(folder: Path, **options: Any) -> Path:
    """The model of letters in float32, with its tokenizer."""
    save_model(letters_model(dtype=torch.float32, **options).eval(), make_letters(), folder)
    return folder


def save_words(folder: Path) -> Path:
    """A BERT of 3 blocks for the words, in float32, with its tokenizer."""
    model = toy_classifier(toy_bert, 3, dtype=torch.float32)
    save_model(model.eval(), make_tokenizer(), folder)
    return folder


def toy_examples(num_rows: int, *, seed: int = 0, pairs: bool = False) -> list[dict[str, str]]:
    """Labelled texts of 3 to 20 toy words, or pairs of such of up to 9."""
    generator = np.random.default_rng(seed)

    def text(most: int) -> str:
        return " ".join(f"w{number}" for number in generator.integers(5, 61, generator.integers(3, most + 1)))

    return [
        {"label": CLASSES[generator.integers(3)], "text": text(9), "text_pair": text(9)}
        if pairs
        else {"label": CLASSES[generator.integers(3)], "text": text(20)}
        for _ in range(num_rows)
    ]


def write_encodings(
    folder: Path,
    examples: Sequence[dict[str, str]],
    *,
    further: bool = True,
    encode: classification.EncodeConfig = ENCODE,
    **options: Any,
) -> Corpus:
    """The examples as a corpus in words and, unless left out, in letters beside."""
    words, letters = make_tokenizer(), make_letters()
    columns = classification.columns(encode)
    rows = classification.cut(examples, words, encode)
    values = [dict(row.values) for row in rows]
    tokenizers = []
    if further:
        columns |= further_columns([NUM_LETTERS])
        shorter = replace(encode, max_length=LONGEST)
        for one, row in zip(values, classification.cut(examples, letters, shorter), strict=True):
            one |= further_values(row, 1, vocab_size=NUM_LETTERS)
        files = _tokenizer_files(letters)
        tokenizers = [(tokenizer_info(letters, max_length=LONGEST, files=_digests(files)), files)]
    return write_corpus(
        folder,
        [row.ids for row in rows],
        tokenizer_files=_tokenizer_files(words),
        tokenizer_hash=tokenizer_hash(words),
        encoding={"name": "classification", "labels": list(encode.labels), "max_length": 40},
        columns=columns,
        values=values,
        further=tokenizers,
        **options,
    )
