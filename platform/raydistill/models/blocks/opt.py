"""``OPTForCausalLM``: a decoder with a table of positions, whose embeddings may be narrower than its blocks."""

from typing import Any

from torch import Tensor

from raydistill.layout import Layout
from raydistill.models.blocks import _base
from raydistill.models.blocks._attention import sees_earlier


class Family(_base.Blocks):
    """OPT; positions count from 0 at the start of the row."""

    MODEL_TYPES = ("opt",)
    HEAD = "causal_lm"
    LAYERS = "model.decoder.layers"
    PROJECTION = "lm_head"
    OUTPUTS = {"sequence_classification": "score"}

    @classmethod
    def limit(cls, config: Any) -> str | None:
        """Blocks that are left out at random."""
        return f"layerdrop is {config.layerdrop}" if config.layerdrop else None

    @classmethod
    def last_width(cls, config: Any) -> int:
        """The embeddings', to which the last states are projected."""
        return int(config.word_embed_proj_dim)

    def embed(self, input_ids: Tensor, layout: Layout, token_types: Tensor | None = None) -> Tensor:
        """Tokens, as wide as the blocks, and positions added."""
        decoder = self.model.model.decoder
        tokens = decoder.embed_tokens(input_ids)
        if decoder.project_in is not None:
            tokens = decoder.project_in(tokens)
        embedded: Tensor = tokens + decoder.embed_positions(layout.mask, position_ids=layout.position)
        return embedded

    def block_inputs(self, hidden: Tensor, layout: Layout, kind: str) -> dict[str, Any]:
        """The causal mask."""
        return sees_earlier(layout)

    def class_logits(self, last_states: Tensor) -> Tensor:
        """A linear layer."""
        logits: Tensor = self.model.score(last_states)
        return logits

    def last_states(self, rows: Tensor) -> Tensor:
        """The final layer norm and the projection to the embeddings' width, where there are such."""
        decoder = self.model.model.decoder
        for part in (decoder.final_layer_norm, decoder.project_out):
            rows = rows if part is None else part(rows)
        return rows
