"""``ModernBertForMaskedLM``: rotary positions, and windows in all but every third block."""

from typing import Any

from torch import Tensor

from raydistill.layout import Layout
from raydistill.models.blocks import _base, llama
from raydistill.models.blocks._attention import sees_all, sees_near


class Family(_base.Blocks):
    """ModernBERT, which has no token types; its first block has no norm before its attention."""

    MODEL_TYPES = ("modernbert",)
    HEAD = "masked_lm"
    LAYERS = "model.layers"
    FIRST_DIFFERS = True
    PROJECTION = "decoder"
    OUTPUTS = {
        "sequence_classification": "classifier",
        "token_classification": "classifier",
        "question_answering": "classifier",
    }
    HEAD_TENSORS = ("head.dense.weight", "decoder.bias")

    @classmethod
    def limit(cls, config: Any) -> str | None:
        """Rotary embeddings that depend on how wide the batch is."""
        return llama.rotary_limit(config)

    def embed(self, input_ids: Tensor, layout: Layout, token_types: Tensor | None = None) -> Tensor:
        """Tokens alone, normalized; positions enter in each block."""
        embedded: Tensor = self.model.model.embeddings(input_ids)
        return embedded

    def block_inputs(self, hidden: Tensor, layout: Layout, kind: str) -> dict[str, Any]:
        """The mask, also of what is too far away, and cosine and sine (1, R, d) of each state's angles."""
        reach = self.model.config.sliding_window
        seen = sees_near(layout, reach=reach) if kind == _base.SLIDING else sees_all(layout)
        rotary = self.model.model.rotary_emb
        llama.restore_frequencies(rotary)
        angles = rotary(hidden, layout.position.unsqueeze(0), kind)
        return {**seen, "position_embeddings": angles}

    def last_states(self, rows: Tensor) -> Tensor:
        """The final norm."""
        states: Tensor = self.model.model.final_norm(rows)
        return states

    def head_transform(self, last_states: Tensor) -> Tensor:
        """Dense, activation and norm of the head, which all heads have."""
        states: Tensor = self.model.head(last_states)
        return states

    def sequence_logits(self, end: Tensor, pooled: Tensor, layout: Layout) -> Tensor:
        """Of the first token, or where the configuration says so of the mean over the row's tokens."""
        if self.model.config.classifier_pooling == "cls":
            return super().sequence_logits(end, pooled, layout)
        states = self.last_states(end) * layout.real[:, None]
        sums = states.new_zeros(layout.num_rows, states.shape[1]).index_add(0, layout.row, states)
        return self.class_logits(sums / layout.mask.sum(dim=1, keepdim=True))

    def class_logits(self, last_states: Tensor) -> Tensor:
        """The head's transform, dropout and classifier."""
        logits: Tensor = self.model.classifier(self.model.drop(self.model.head(last_states)))
        return logits

    def token_logits(self, last_states: Tensor) -> Tensor:
        """As of rows."""
        return self.class_logits(last_states)

    def span_logits(self, last_states: Tensor) -> Tensor:
        """As of rows."""
        return self.class_logits(last_states)
