"""``RobertaForMaskedLM`` and its copies: BERT's blocks, positions counted from the padding id.

The last block's output is the last hidden state.
"""

from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import gelu

from raydistill.layout import Layout
from raydistill.models.blocks import _base


class Family(_base.Blocks):
    """RoBERTa, XLM-RoBERTa and CamemBERT; token types are all 0."""

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ("roberta", "xlm-roberta", "camembert")
    HEAD = "masked_lm"
    LAYERS = "roberta.encoder.layer"
    QUERY_AND_KEY: ClassVar[tuple[str, str] | None] = ("attention.self.query", "attention.self.key")
    UNITS: ClassVar[_base.UnitNames | None] = _base.BERT_UNITS
    PROJECTION = "lm_head.decoder"
    OUTPUTS = {
        "sequence_classification": "classifier.out_proj",
        "token_classification": "classifier",
        "question_answering": "qa_outputs",
    }
    HEAD_TENSORS = ("lm_head.dense.weight", "lm_head.bias")
    HEAD_TRANSFORM = ("lm_head.dense", "lm_head.layer_norm")

    @classmethod
    def refusal(cls, config: Any) -> str | None:
        """A RoBERTa whose tokens see only those before them is refused."""
        if getattr(config, "is_decoder", False):
            return "is_decoder is true in the model's configuration; a masked-language model needs false"
        return None

    @classmethod
    def max_length(cls, config: Any) -> int:
        """The table's first rows, up to the padding id, belong to no token."""
        return int(config.max_position_embeddings) - cls.first_position(config) - 1

    @classmethod
    def first_position(cls, config: Any) -> int:
        """The row of the position table before that of the first token: the padding id."""
        return int(config.pad_token_id)

    def embed(self, input_ids: Tensor, layout: Layout, token_types: Tensor | None = None) -> Tensor:
        """Embedding output, token type 0 added; position t is row ``padding id + 1 + t`` of the position table.

        Padding is at row ``padding id``. Both follow the mask: the family's own count of ids other than padding would
        take a real token that was replaced by the padding id for padding, and move all that follow it.
        """
        position_ids = (layout.position + 1) * layout.real + self.first_position(self.model.config)
        embedded: Tensor = self.model.base_model.embeddings(
            input_ids=input_ids.unsqueeze(0), position_ids=position_ids.unsqueeze(0)
        )
        return embedded.squeeze(0)

    def class_logits(self, last_states: Tensor) -> Tensor:
        """Dropout, dense layer, tanh, dropout and projection, all in the model's own head."""
        logits: Tensor = self.model.classifier(last_states.unsqueeze(1))
        return logits

    def head_transform(self, last_states: Tensor) -> Tensor:
        """Dense, GELU and layer norm of the head."""
        head = self.model.lm_head
        states: Tensor = head.layer_norm(gelu(head.dense(last_states)))
        return states
