"""RoBERTa and decoders small enough for unit tests; BERT and DistilBERT are in ``models.py``."""

from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    RobertaConfig,
    RobertaForMaskedLM,
)

from raydistill.testing.models import PAD, VOCABULARY, perturb, toy_bert, toy_distilbert


def toy_roberta(
    num_layers: int, *, hidden_size: int = 16, seed: int = 2, dropout: float = 0.0, dtype: torch.dtype = torch.float64
) -> Any:
    """A RoBERTa masked-LM model with 2 heads, for rows of up to 40 tokens."""
    torch.manual_seed(seed)
    config = RobertaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=41 + PAD,
        type_vocab_size=1,
        pad_token_id=PAD,
        initializer_range=0.3,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return perturb(RobertaForMaskedLM(config), seed, dtype)


def toy_gpt2(
    num_layers: int, *, hidden_size: int = 16, seed: int = 3, dropout: float = 0.0, dtype: torch.dtype = torch.float64
) -> Any:
    """A GPT-2 with 2 heads, its head tied to the embeddings."""
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=hidden_size,
        n_layer=num_layers,
        n_head=2,
        n_inner=24,
        n_positions=40,
        initializer_range=0.3,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=2,
        eos_token_id=3,
    )
    return _decoder(config, seed, dtype)


def toy_llama(
    num_layers: int, *, hidden_size: int = 16, seed: int = 4, dropout: float = 0.0, dtype: torch.dtype = torch.float64
) -> Any:
    """A Llama with 2 heads, 1 head of keys and values, and a head of its own."""
    return _decoder(LlamaConfig(**_sizes(num_layers, hidden_size, dropout)), seed, dtype)


def toy_qwen2(
    num_layers: int, *, hidden_size: int = 16, seed: int = 5, dropout: float = 0.0, dtype: torch.dtype = torch.float64
) -> Any:
    """A Qwen2, its head tied to the embeddings."""
    config = Qwen2Config(**_sizes(num_layers, hidden_size, dropout), tie_word_embeddings=True)
    return _decoder(config, seed, dtype)


def toy_mistral(
    num_layers: int, *, hidden_size: int = 16, seed: int = 6, dropout: float = 0.0, dtype: torch.dtype = torch.float64
) -> Any:
    """A Mistral whose window of 12 tokens is shorter than most toy rows."""
    config = MistralConfig(**_sizes(num_layers, hidden_size, dropout), sliding_window=12)
    return _decoder(config, seed, dtype)


MASKED = (toy_bert, toy_distilbert, toy_roberta)
DECODERS = (toy_gpt2, toy_llama, toy_qwen2, toy_mistral)


def head_of(family: Any) -> str:
    """Name of the head that a toy family has."""
    return "masked_lm" if family in MASKED else "causal_lm"


def _sizes(num_layers: int, hidden_size: int, dropout: float) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 24,
        "max_position_embeddings": 40,
        "initializer_range": 0.3,
        "attention_dropout": dropout,
        "bos_token_id": 2,
        "eos_token_id": 3,
    }


def _decoder(config: Any, seed: int, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(seed)
    return perturb(AutoModelForCausalLM.from_config(config), seed, dtype)
