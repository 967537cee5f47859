"""``Gemma2ForCausalLM``: Llama's parts with windows in every second block, and caps on scores and logits."""

import torch
from torch import Tensor

from raydistill.models.blocks import llama


class Family(llama.Family):
    """Gemma 2; the embeddings scale themselves."""

    MODEL_TYPES = ("gemma2",)
    ATTENTION = "eager"

    def head_transform(self, last_states: Tensor) -> Tensor:
        """With a cap the logits themselves: no projection comes after it."""
        cap = self.model.config.final_logit_softcapping
        if cap is None:
            return last_states
        logits: Tensor = torch.tanh(self.model.lm_head(last_states) / cap) * cap
        return logits

    def head_projection(self) -> tuple[Tensor | None, Tensor | None]:
        """None where the logits are capped."""
        return super().head_projection() if self.model.config.final_logit_softcapping is None else (None, None)
