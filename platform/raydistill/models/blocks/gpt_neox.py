"""``GPTNeoXForCausalLM``, such as Pythia: rotary positions as in Llama, layer norms, attention beside the neurons."""

from typing import Any

from torch import Tensor

from raydistill.layout import Layout
from raydistill.models.blocks import llama


class Family(llama.Family):
    """GPT-NeoX."""

    MODEL_TYPES = ("gpt_neox",)
    LAYERS = "gpt_neox.layers"
    OUTPUTS = {"sequence_classification": "score", "token_classification": "classifier"}

    @classmethod
    def head_tensors(cls, config: Any, head: str) -> tuple[str, ...]:
        """Checkpoints call the projection otherwise."""
        return tuple(name.replace("lm_head.", "embed_out.") for name in super().head_tensors(config, head))

    def embed(self, input_ids: Tensor, layout: Layout, token_types: Tensor | None = None) -> Tensor:
        """Tokens and dropout."""
        embedded: Tensor = self.model.gpt_neox.emb_dropout(self.model.gpt_neox.embed_in(input_ids))
        return embedded

    def last_states(self, rows: Tensor) -> Tensor:
        """The final layer norm."""
        states: Tensor = self.model.gpt_neox.final_layer_norm(rows)
        return states
