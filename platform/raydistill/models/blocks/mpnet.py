"""``MPNetForMaskedLM``: RoBERTa's parts, and in all blocks one bias for how far two tokens are from each other."""

from typing import Any

from torch import Tensor

from raydistill.layout import Layout
from raydistill.models.blocks import roberta
from raydistill.models.blocks._attention import padding_mask, weighted_values


class Family(roberta.Family):
    """MPNet, which has no token types and counts positions from 1 whatever its padding id is."""

    MODEL_TYPES = ("mpnet",)
    ATTENTION = "eager"
    LAYERS = "mpnet.encoder.layer"
    QUERY_AND_KEY = None
    UNITS = None

    @classmethod
    def first_position(cls, config: Any) -> int:
        """See the base class."""
        return 1

    def block_inputs(self, hidden: Tensor, layout: Layout, kind: str) -> dict[str, Any]:
        """The mask and the biases (B, H, T, T)."""
        bias = self.model.mpnet.encoder.compute_position_bias(layout.mask)
        return {"attention_mask": padding_mask(layout), "position_bias": bias}

    def run_block(self, layer: Any, states: Tensor, layout: Layout, inputs: dict[str, Any]) -> Tensor:
        """The block with its attention over padded rows."""
        attention = layer.attention
        own = attention.attn
        split = (1, states.shape[1], own.num_attention_heads, own.attention_head_size)
        query, key, value = (layout.spread(part(states).view(split).transpose(1, 2)) for part in (own.q, own.k, own.v))
        scores = query @ key.transpose(-1, -2) / own.attention_head_size**0.5 + inputs["position_bias"]
        context = layout.gather(weighted_values(scores, inputs["attention_mask"], value, own.dropout))
        attended = attention.LayerNorm(attention.dropout(own.o(context.flatten(-2))) + states)
        output: Tensor = layer.output(layer.intermediate(attended), attended)
        return output
