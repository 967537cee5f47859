"""``GraniteForCausalLM``: Llama's parts with factors on embeddings and logits; those in the blocks are their own."""

from torch import Tensor

from raydistill.layout import Layout
from raydistill.models.blocks import llama


class Family(llama.Family):
    """Granite."""

    MODEL_TYPES = ("granite",)

    def embed(self, input_ids: Tensor, layout: Layout, token_types: Tensor | None = None) -> Tensor:
        """Tokens times the embeddings' factor."""
        return super().embed(input_ids, layout, token_types) * self.model.model.embedding_multiplier

    def head_transform(self, last_states: Tensor) -> Tensor:
        """Divided by the logits' factor before the projection, not after it."""
        return last_states / self.model.config.logits_scaling
