"""Checkpoints with each head that answers about texts, with random weights."""

from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
)

from toys.models import VOCABULARY
from toys.words import make_tokenizer

LABELS = {
    "sequence_classification": ("bad", "so-so", "good"),
    "token_classification": ("O", "B-PER", "I-PER"),
    "score": ("score",),
}
_CLASSES = {
    "sequence_classification": BertForSequenceClassification,
    "score": BertForSequenceClassification,
    "token_classification": BertForTokenClassification,
    "question_answering": BertForQuestionAnswering,
    "masked_lm": BertForMaskedLM,
}


def save_answering(folder: Path, head: str, *, seed: int = 0, max_length: int = 40, **options: object) -> Path:
    """A toy model with a head of ``LABELS``, of answers, or of a vocabulary, and its tokenizer."""
    torch.manual_seed(seed)
    if head == "causal_lm":
        sizes = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": max_length}
        model = GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.3, bos_token_id=2, eos_token_id=3))
    else:
        labels = dict(enumerate(LABELS.get(head, ())))
        config = BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=max_length,
            initializer_range=0.3,
            **({"id2label": labels, "label2id": {name: place for place, name in labels.items()}} if labels else {}),
            **options,
        )
        model = _CLASSES[head](config)
    model.save_pretrained(folder)
    make_tokenizer(max_length=max_length).save_pretrained(folder)
    return folder
