"""``DistilBertForMaskedLM``: the last block's output is the last hidden state."""

from torch import Tensor
from torch.nn.functional import relu

from raydistill.layout import Layout
from raydistill.models.blocks import _base


class Family(_base.Blocks):
    """DistilBERT, which has no token types."""

    MODEL_TYPES = ("distilbert",)
    HEAD = "masked_lm"
    QUERY_AND_KEY = ("attention.q_lin", "attention.k_lin")
    UNITS = _base.UnitNames(
        attention="attention",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        attention_output="attention.out_lin",
        intermediate="ffn.lin1",
        output="ffn.lin2",
    )
    LAYERS = "distilbert.transformer.layer"
    PROJECTION = "vocab_projector"
    OUTPUTS = {
        "sequence_classification": "classifier",
        "token_classification": "classifier",
        "question_answering": "qa_outputs",
    }
    HEAD_TENSORS = ("vocab_transform.weight", "vocab_projector.bias")

    def embed(self, input_ids: Tensor, layout: Layout, token_types: Tensor | None = None) -> Tensor:
        """Embedding output of tokens and positions."""
        position_ids = layout.position.unsqueeze(0)
        embedded: Tensor = self.model.distilbert.embeddings(input_ids.unsqueeze(0), position_ids=position_ids)
        return embedded.squeeze(0)

    def class_logits(self, last_states: Tensor) -> Tensor:
        """Dense layer, ReLU, dropout and classifier."""
        pooled = relu(self.model.pre_classifier(last_states))
        logits: Tensor = self.model.classifier(self.model.dropout(pooled))
        return logits

    def span_logits(self, last_states: Tensor) -> Tensor:
        """Dropout and a linear layer."""
        logits: Tensor = self.model.qa_outputs(self.model.dropout(last_states))
        return logits

    def head_transform(self, last_states: Tensor) -> Tensor:
        """Transform, activation and layer norm of the head."""
        states: Tensor = self.model.vocab_layer_norm(self.model.activation(self.model.vocab_transform(last_states)))
        return states
