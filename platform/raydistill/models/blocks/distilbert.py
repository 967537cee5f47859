"""``DistilBertForMaskedLM``: the last block's output is the last hidden state."""

from torch import Tensor

from raydistill.layout import Layout
from raydistill.models.blocks import _base


class Family(_base.Blocks):
    """DistilBERT, which has no token types."""

    HEAD = "masked_lm"
    LAYERS = "distilbert.transformer.layer"
    PROJECTION = "vocab_projector"
    HEAD_TENSORS = ("vocab_transform.weight", "vocab_projector.bias")

    def embed(self, input_ids: Tensor, layout: Layout) -> Tensor:
        """Embedding output of tokens and positions."""
        position_ids = layout.position.unsqueeze(0)
        embedded: Tensor = self.model.distilbert.embeddings(input_ids.unsqueeze(0), position_ids=position_ids)
        return embedded.squeeze(0)

    def head_transform(self, last_states: Tensor) -> Tensor:
        """Transform, activation and layer norm of the head."""
        states: Tensor = self.model.vocab_layer_norm(self.model.activation(self.model.vocab_transform(last_states)))
        return states
