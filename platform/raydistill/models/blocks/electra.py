"""ELECTRA's generator, ``ElectraForMaskedLM``, and classifiers: BERT's blocks behind embeddings of their own width."""

from torch import Tensor

from raydistill.layout import Layout
from raydistill.models.blocks import bert


class Family(bert.Family):
    """ELECTRA; the embeddings are projected to the blocks' width where it is another."""

    MODEL_TYPES = ("electra",)
    LAYERS = "electra.encoder.layer"
    PROJECTION = "generator_lm_head"
    OUTPUTS = {
        "sequence_classification": "classifier.out_proj",
        "token_classification": "classifier",
        "question_answering": "qa_outputs",
    }
    HEAD_TENSORS = ("generator_predictions.dense.weight", "generator_lm_head.bias")

    def embed(self, input_ids: Tensor, layout: Layout, token_types: Tensor | None = None) -> Tensor:
        """Embedding output of tokens, positions and types, as wide as the blocks."""
        embedded = super().embed(input_ids, layout, token_types)
        project = getattr(self.model.electra, "embeddings_project", None)
        return embedded if project is None else project(embedded)

    def class_logits(self, last_states: Tensor) -> Tensor:
        """Dropout, dense layer, GELU, dropout and projection, all in the model's own head."""
        logits: Tensor = self.model.classifier(last_states.unsqueeze(1))
        return logits

    def head_transform(self, last_states: Tensor) -> Tensor:
        """Dense, GELU and layer norm of the generator."""
        states: Tensor = self.model.generator_predictions(last_states)
        return states
