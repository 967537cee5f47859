"""``BertForMaskedLM``: the last block's output is the last hidden state."""

from typing import Any, ClassVar

from torch import Tensor

from raydistill.layout import Layout
from raydistill.models.blocks import _base


class Family(_base.Blocks):
    """BERT; without token types they are all 0."""

    MODEL_TYPES = ("bert",)
    HEAD = "masked_lm"
    LAYERS = "bert.encoder.layer"
    QUERY_AND_KEY: ClassVar[tuple[str, str] | None] = ("attention.self.query", "attention.self.key")
    UNITS: ClassVar[_base.UnitNames | None] = _base.BERT_UNITS
    PROJECTION = "cls.predictions.decoder"
    OUTPUTS = {
        "sequence_classification": "classifier",
        "token_classification": "classifier",
        "question_answering": "qa_outputs",
    }
    HEAD_TENSORS = ("cls.predictions.transform.dense.weight", "cls.predictions.bias")

    @classmethod
    def refusal(cls, config: Any) -> str | None:
        """A BERT whose tokens see only those before them is refused."""
        if getattr(config, "is_decoder", False):
            return "is_decoder is true in the model's configuration; a masked-language model needs false"
        return None

    def embed(self, input_ids: Tensor, layout: Layout, token_types: Tensor | None = None) -> Tensor:
        """Embedding output of tokens, positions and types."""
        embedded: Tensor = self.model.base_model.embeddings(
            input_ids=input_ids.unsqueeze(0),
            position_ids=layout.position.unsqueeze(0),
            token_type_ids=None if token_types is None else token_types.unsqueeze(0),
        )
        return embedded.squeeze(0)

    def class_logits(self, last_states: Tensor) -> Tensor:
        """Pooler, dropout and classifier."""
        pooled = self.model.bert.pooler(last_states.unsqueeze(1))
        logits: Tensor = self.model.classifier(self.model.dropout(pooled))
        return logits

    def head_transform(self, last_states: Tensor) -> Tensor:
        """Dense, activation and layer norm of the head."""
        states: Tensor = self.model.cls.predictions.transform(last_states)
        return states
