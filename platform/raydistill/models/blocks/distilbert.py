"""``DistilBertForMaskedLM``: the last block's output is the last hidden state."""

from torch import Tensor

from raydistill.models.blocks import _base


class Family(_base.Blocks):
    """DistilBERT, which has no token types."""

    HEAD = "masked_lm"
    LAYERS = "distilbert.transformer.layer"
    PROJECTION = "vocab_projector"
    HEAD_TENSORS = ("vocab_transform.weight", "vocab_projector.bias")

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embedding output of tokens and positions."""
        embedded: Tensor = self.model.distilbert.embeddings(input_ids)
        return embedded

    def head_transform(self, last_states: Tensor) -> Tensor:
        """Transform, activation and layer norm of the head."""
        states: Tensor = self.model.vocab_layer_norm(self.model.activation(self.model.vocab_transform(last_states)))
        return states
