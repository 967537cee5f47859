"""``GPT2LMHeadModel``: a decoder; the last hidden state is the last block's output after the final layer norm."""

from typing import Any

import torch
from torch import Tensor

from raydistill.models.blocks import _base
from raydistill.models.blocks._masks import causal_bias


class Family(_base.Blocks):
    """GPT-2; positions count from 0 at the start of the row."""

    HEAD = "causal_lm"
    LAYERS = "transformer.h"
    PROJECTION = "lm_head"

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Tokens and positions added, then dropout."""
        decoder = self.model.transformer
        position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        embedded: Tensor = decoder.drop(decoder.wte(input_ids) + decoder.wpe(position_ids))
        return embedded

    def block_inputs(self, hidden: Tensor, attention_mask: Tensor) -> dict[str, Any]:
        """The causal mask."""
        return {"attention_mask": causal_bias(hidden, attention=self.model.config._attn_implementation)}

    def last_states(self, rows: Tensor) -> Tensor:
        """The final layer norm."""
        states: Tensor = self.model.transformer.ln_f(rows)
        return states
