"""``Gemma3ForCausalLM``, the text model: Llama's parts, whose rotary angles differ with a block's window."""

from typing import Any

from torch import Tensor, nn

from raydistill.models.blocks import llama


class Family(llama.Family):
    """Gemma 3; the embeddings scale themselves."""

    MODEL_TYPES = ("gemma3_text",)

    @classmethod
    def limit(cls, config: Any) -> str | None:
        """Also a model whose tokens see later ones."""
        return "use_bidirectional_attention is true" if config.use_bidirectional_attention else super().limit(config)

    def angles(self, rotary: nn.Module, hidden: Tensor, positions: Tensor, kind: str) -> Any:
        """Of this kind of blocks."""
        return rotary(hidden, positions, kind)
