"""``Qwen2ForCausalLM``: Llama's parts, with biases in the attention."""

from raydistill.models.blocks.llama import Family

__all__ = ["Family"]
