"""``AlbertForMaskedLM``: BERT's blocks, each run several times, behind narrow embeddings."""

from torch import Tensor, nn

from raydistill.layout import Layout
from raydistill.models.blocks import bert


class Family(bert.Family):
    """ALBERT; blocks count as they run."""

    MODEL_TYPES = ("albert",)
    LAYERS = "albert.encoder.albert_layer_groups"
    SHARED = True
    QUERY_AND_KEY = None
    UNITS = None
    PROJECTION = "predictions.decoder"
    HEAD_TENSORS = ("predictions.dense.weight", "predictions.bias")

    @property
    def num_blocks(self) -> int:
        """Number of blocks that run one after another."""
        return int(self.model.config.num_hidden_layers)

    def _steps(self, start: int, stop: int) -> list[tuple[nn.Module, bool]]:
        groups = self.layers
        return [(groups[int(block / (self.num_blocks / len(groups)))], False) for block in range(start, stop)]

    def embed(self, input_ids: Tensor, layout: Layout, token_types: Tensor | None = None) -> Tensor:
        """Embedding output of tokens, positions and types, as wide as the blocks."""
        mapped: Tensor = self.model.albert.encoder.embedding_hidden_mapping_in(
            super().embed(input_ids, layout, token_types)
        )
        return mapped

    def class_logits(self, last_states: Tensor) -> Tensor:
        """Pooler, dropout and classifier."""
        albert = self.model.albert
        pooled = albert.pooler_activation(albert.pooler(last_states))
        logits: Tensor = self.model.classifier(self.model.dropout(pooled))
        return logits

    def head_transform(self, last_states: Tensor) -> Tensor:
        """Dense, activation and layer norm of the head."""
        head = self.model.predictions
        states: Tensor = head.LayerNorm(head.activation(head.dense(last_states)))
        return states
