"""``LlamaForCausalLM`` and decoders built alike; the last hidden state is the last block's output after the final norm.

Such a decoder is another file that takes this one's ``Family``.
"""

from typing import Any

import torch
from torch import Tensor, nn

from raydistill.layout import Layout
from raydistill.models.blocks import _base
from raydistill.models.blocks._attention import causal_mask

_ROTARY_TYPES = ("default", "linear", "llama3", "yarn")
"""Rotary embeddings whose angles do not depend on how wide the batch happens to be."""


class Family(_base.Blocks):
    """Rotary positions from 0 at the start of the row, grouped queries, RMS norms, and maybe a sliding window."""

    HEAD = "causal_lm"
    RELATIVE = True
    LAYERS = "model.layers"
    PROJECTION = "lm_head"
    OUTPUTS = {"sequence_classification": "score"}

    @classmethod
    def refusal(cls, config: Any) -> str | None:
        """Rotary embeddings that depend on the batch are refused, and blocks that differ in their window."""
        rotary = config.rope_parameters["rope_type"]
        if rotary not in _ROTARY_TYPES:
            return f"rope_type is {rotary!r}; choices: {', '.join(_ROTARY_TYPES)}"
        if len(set(getattr(config, "layer_types", None) or [])) > 1:
            return "layer_types differ from block to block; only models with equal blocks are supported"
        return None

    def embed(self, input_ids: Tensor, layout: Layout, token_types: Tensor | None = None) -> Tensor:
        """Tokens alone; positions enter in each block."""
        embedded: Tensor = self.model.model.embed_tokens(input_ids)
        return embedded

    def block_inputs(self, hidden: Tensor, layout: Layout) -> dict[str, Any]:
        """The causal mask, and cosine and sine (1, R, d) of each state's angles."""
        rotary = self.model.model.rotary_emb
        _restore_frequencies(rotary)
        return {
            "attention_mask": causal_mask(layout, window=_window(self.model.config)),
            "position_embeddings": rotary(hidden, position_ids=layout.position.unsqueeze(0)),
        }

    def class_logits(self, last_states: Tensor) -> Tensor:
        """A linear layer."""
        logits: Tensor = self.model.score(last_states)
        return logits

    def last_states(self, rows: Tensor) -> Tensor:
        """The final norm."""
        states: Tensor = self.model.model.norm(rows)
        return states


def _window(config: Any) -> int | None:
    """Nearest tokens that a token sees, itself counted; None for all before it."""
    window: int | None = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"]
    return window if kinds[0] == "sliding_attention" else None


def _restore_frequencies(rotary: nn.Module) -> None:
    """Undo a cast of the rotary frequencies to half precision, which engines apply to all that a model holds.

    Rounded to 8 bits, the angle at position 500 would be off by up to a radian.
    """
    held: Any = rotary.inv_freq
    if held.dtype.itemsize < torch.float32.itemsize:
        fresh: Any = type(rotary)(config=rotary.config)
        rotary.inv_freq = fresh.inv_freq.to(held.device)
        rotary.original_inv_freq = fresh.original_inv_freq.to(held.device)
