"""One toy model of each family, a line each: what its configuration has besides the sizes that all have."""

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig

from raydistill.models.classes import with_classes
from raydistill.models.heads import model_class
from raydistill.models.load import with_dropout
from toys.models import PAD, VOCABULARY, perturb

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 44,
    "initializer_range": 0.3,
    "pad_token_id": PAD,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
_GROUPED: dict[str, Any] = {"num_key_value_heads": 1, "head_dim": 8}
_SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]
_WINDOWS: dict[str, Any] = {**_GROUPED, "layer_types": _SLIDING, "sliding_window": 6}

ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {},
    "distilbert": {"hidden_dim": 24},
    "roberta": {},
    "xlm-roberta": {},
    "camembert": {},
    "electra": {"embedding_size": 12},
    "albert": {"embedding_size": 12, "num_hidden_groups": 2},
    "mpnet": {},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 4,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "type_vocab_size": 0,
        "position_biased_input": False,
        "pooler_hidden_size": 16,
    },
    "modernbert": {"local_attention": 6, "global_attn_every_n_layers": 2, "classifier_pooling": "mean"},
}
DECODERS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": _GROUPED,
    "mistral": {**_GROUPED, "sliding_window": 6},
    "qwen2": {**_WINDOWS, "use_sliding_window": True, "tie_word_embeddings": True},
    "qwen3": {**_WINDOWS, "use_sliding_window": True},
    "olmo2": {"num_key_value_heads": 1},
    "phi3": {"num_key_value_heads": 1, "sliding_window": 6},
    "smollm3": {**_WINDOWS, "use_sliding_window": True, "no_rope_layers": [1, 0, 1]},
    "opt": {"word_embed_proj_dim": 12, "ffn_dim": 24},
    "gpt_neox": {},
    "gemma2": {**_WINDOWS, "query_pre_attn_scalar": 9, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "granite": {
        "num_key_value_heads": 1,
        "embedding_multiplier": 3.0,
        "logits_scaling": 0.7,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.4,
    },
    "gemma3_text": {**_WINDOWS, "query_pre_attn_scalar": 9},
}
PACKED = {**ENCODERS, **DECODERS}


def toy(model_type: str, *, head: str | None = None, seed: int = 0, dropout: float = 0.0, **changes: Any) -> Any:
    """A model of 3 blocks in float64, with its vocabulary head or another; all weights are large enough to show."""
    options = {**_SIZES, **PACKED.get(model_type, {}), **changes}
    names = type(AutoConfig.for_model(model_type)).attribute_map
    own = {names.get(name, name): value for name, value in options.items()}
    config = with_dropout(AutoConfig.for_model(model_type, **own), dropout)
    head = head or vocabulary_head(model_type)
    if head in ("sequence_classification", "token_classification"):
        config = with_classes(config, ("red", "green", "blue"))
    torch.manual_seed(seed)
    model: nn.Module = model_class(head).from_config(config)
    return perturb(model, seed, torch.float64).eval()


def vocabulary_head(model_type: str) -> str:
    """The head of the family's language model."""
    return "masked_lm" if model_type in ENCODERS else "causal_lm"
