"""``MistralForCausalLM``: Llama's parts, with a sliding window in all blocks."""

from raydistill.models.blocks.llama import Family

__all__ = ["Family"]
