"""``DebertaV2ForMaskedLM``, also DeBERTa-v3: content and distance attend to each other in every block."""

from typing import Any

import torch
from torch import Tensor

from raydistill.layout import Layout
from raydistill.models.blocks import bert
from raydistill.models.blocks._attention import weighted_values


class Family(bert.Family):
    """DeBERTa-v2."""

    MODEL_TYPES = ("deberta-v2",)
    ATTENTION = "eager"
    LAYERS = "deberta.encoder.layer"
    QUERY_AND_KEY = None
    UNITS = None

    @classmethod
    def limit(cls, config: Any) -> str | None:
        """A convolution beside the first block, and the newer head of its language model."""
        if getattr(config, "conv_kernel_size", 0) > 0:
            return f"conv_kernel_size is {config.conv_kernel_size}"
        return None if config.legacy else "legacy is false"

    def embed(self, input_ids: Tensor, layout: Layout, token_types: Tensor | None = None) -> Tensor:
        """Embedding output of tokens and, where there are such, of positions and types; 0 at padding."""
        embedded: Tensor = self.model.deberta.embeddings(
            input_ids=input_ids.unsqueeze(0),
            position_ids=layout.position.unsqueeze(0),
            token_type_ids=None if token_types is None else token_types.unsqueeze(0),
            mask=layout.real.unsqueeze(0),
        )
        return embedded.squeeze(0)

    def block_inputs(self, hidden: Tensor, layout: Layout, kind: str) -> dict[str, Any]:
        """The mask (B, 1, T, T), distances (1, T, T) and what is learned of distances (E, D)."""
        encoder, mask = self.model.deberta.encoder, layout.mask
        inputs = {"attention_mask": mask[:, None, None, :] & mask[:, None, :, None]}
        if not encoder.relative_attention:
            return {**inputs, "relative_pos": None, "rel_embeddings": None}
        table = encoder.rel_embeddings
        learned = table(torch.arange(table.num_embeddings, device=mask.device))
        if "layer_norm" in encoder.norm_rel_ebd:
            learned = encoder.LayerNorm(learned)
        return {**inputs, "relative_pos": encoder.get_rel_pos(mask.unsqueeze(-1)), "rel_embeddings": learned}

    def run_block(self, layer: Any, states: Tensor, layout: Layout, inputs: dict[str, Any]) -> Tensor:
        """The block with its attention over padded rows."""
        own = layer.attention.self
        heads = own.num_attention_heads
        split = (1, states.shape[1], heads, own.attention_head_size)
        query, key, value = (
            layout.spread(part(states).view(split).transpose(1, 2))
            for part in (own.query_proj, own.key_proj, own.value_proj)
        )
        factor = 1 + sum(kind in own.pos_att_type for kind in ("c2p", "p2c"))
        scale = torch.tensor(own.attention_head_size * factor, dtype=torch.float).sqrt().to(states.dtype)
        scores = query @ (key.transpose(-1, -2) / scale)
        if own.relative_attention:
            bias = own.disentangled_attention_bias(
                query.flatten(0, 1),
                key.flatten(0, 1),
                inputs["relative_pos"],
                own.pos_dropout(inputs["rel_embeddings"]),
                factor,
            )
            scores = scores + bias.unflatten(0, (-1, heads))
        context = layout.gather(weighted_values(scores, inputs["attention_mask"], value, own.dropout))
        attended = layer.attention.output(context.flatten(-2), states)
        output: Tensor = layer.output(layer.intermediate(attended), attended)
        return output

    def class_logits(self, last_states: Tensor) -> Tensor:
        """Pooler, dropout and classifier."""
        pooled = self.model.pooler(last_states.unsqueeze(1))
        logits: Tensor = self.model.classifier(self.model.dropout(pooled))
        return logits
