"""``GPT2LMHeadModel``: a decoder; the last hidden state is the last block's output after the final layer norm."""

from typing import Any

from torch import Tensor

from raydistill.layout import Layout
from raydistill.models.blocks import _base
from raydistill.models.blocks._attention import sees_earlier


class Family(_base.Blocks):
    """GPT-2; positions count from 0 at the start of the row."""

    MODEL_TYPES = ("gpt2",)
    HEAD = "causal_lm"
    LAYERS = "transformer.h"
    PROJECTION = "lm_head"
    OUTPUTS = {"sequence_classification": "score"}

    def embed(self, input_ids: Tensor, layout: Layout, token_types: Tensor | None = None) -> Tensor:
        """Tokens and positions added, then dropout."""
        decoder = self.model.transformer
        embedded: Tensor = decoder.drop(decoder.wte(input_ids) + decoder.wpe(layout.position))
        return embedded

    def block_inputs(self, hidden: Tensor, layout: Layout, kind: str) -> dict[str, Any]:
        """The causal mask."""
        return sees_earlier(layout)

    def class_logits(self, last_states: Tensor) -> Tensor:
        """A linear layer."""
        logits: Tensor = self.model.score(last_states)
        return logits

    def last_states(self, rows: Tensor) -> Tensor:
        """The final layer norm."""
        states: Tensor = self.model.transformer.ln_f(rows)
        return states
