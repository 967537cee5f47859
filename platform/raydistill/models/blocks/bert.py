"""``BertForMaskedLM``: the last block's output is the last hidden state."""

from typing import Any

from torch import Tensor

from raydistill.layout import Layout
from raydistill.models.blocks import _base


class Family(_base.Blocks):
    """BERT; token types are all 0."""

    HEAD = "masked_lm"
    LAYERS = "bert.encoder.layer"
    PROJECTION = "cls.predictions.decoder"
    HEAD_TENSORS = ("cls.predictions.transform.dense.weight", "cls.predictions.bias")

    @classmethod
    def refusal(cls, config: Any) -> str | None:
        """A BERT whose tokens see only those before them is refused."""
        if config.is_decoder:
            return "is_decoder is true in the model's configuration; a masked-language model needs false"
        return None

    def embed(self, input_ids: Tensor, layout: Layout) -> Tensor:
        """Embedding output, token type 0 added."""
        position_ids = layout.position.unsqueeze(0)
        embedded: Tensor = self.model.bert.embeddings(input_ids=input_ids.unsqueeze(0), position_ids=position_ids)
        return embedded.squeeze(0)

    def head_transform(self, last_states: Tensor) -> Tensor:
        """Dense, activation and layer norm of the head."""
        states: Tensor = self.model.cls.predictions.transform(last_states)
        return states
