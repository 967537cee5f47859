"""``LlamaForCausalLM`` and decoders built alike; the last hidden state is the last block's output after the final norm.

A decoder that is built alike is another name in ``MODEL_TYPES``, or a file whose ``Family`` says what differs.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from raydistill.layout import Layout
from raydistill.models.blocks import _base
from raydistill.models.blocks._attention import sees_earlier

_ROTARY_TYPES = ("default", "linear", "llama3", "yarn")
"""Rotary embeddings whose angles do not depend on how wide the batch happens to be."""


class Family(_base.Blocks):
    """Rotary positions from 0 at the start of the row, grouped queries, norms, and a window in all, some or no blocks.

    Biases, norms of queries and keys, and blocks without rotary positions lie in the blocks and make no difference.
    """

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ("llama", "mistral", "qwen2", "qwen3", "olmo2", "phi3", "smollm3")
    HEAD = "causal_lm"
    RELATIVE = True
    LAYERS = "model.layers"
    PROJECTION = "lm_head"
    OUTPUTS = {"sequence_classification": "score"}

    @classmethod
    def limit(cls, config: Any) -> str | None:
        """Rotary embeddings that depend on how wide the batch is."""
        return rotary_limit(config)

    def embed(self, input_ids: Tensor, layout: Layout, token_types: Tensor | None = None) -> Tensor:
        """Tokens alone; positions enter in each block."""
        embedded: Tensor = self.model.model.embed_tokens(input_ids)
        return embedded

    def kind_of(self, block: int) -> str:
        """By ``layer_types``; without them a window holds in all blocks."""
        if getattr(self.model.config, "layer_types", None):
            return super().kind_of(block)
        return _base.FULL if getattr(self.model.config, "sliding_window", None) is None else _base.SLIDING

    def block_inputs(self, hidden: Tensor, layout: Layout, kind: str) -> dict[str, Any]:
        """The causal mask, and cosine and sine (1, R, d) of each state's angles."""
        window = self.model.config.sliding_window if kind == _base.SLIDING else None
        rotary = self.model.base_model.rotary_emb
        restore_frequencies(rotary)
        return {
            **sees_earlier(layout, window=window),
            "position_embeddings": self.angles(rotary, hidden, layout.position.unsqueeze(0), kind),
        }

    def angles(self, rotary: nn.Module, hidden: Tensor, positions: Tensor, kind: str) -> Any:
        """Cosine and sine (1, R, d) at positions (1, R), the same for all kinds of blocks."""
        return rotary(hidden, position_ids=positions)

    def class_logits(self, last_states: Tensor) -> Tensor:
        """A linear layer."""
        logits: Tensor = self.model.score(last_states)
        return logits

    def last_states(self, rows: Tensor) -> Tensor:
        """The final norm."""
        states: Tensor = self.model.model.norm(rows)
        return states


def rotary_limit(config: Any) -> str | None:
    """The type of rotary embeddings, one or one for each kind of blocks, that depends on how wide the batch is."""
    parameters = config.rope_parameters
    of_kinds = [parameters] if "rope_type" in parameters else list(parameters.values())
    others = [one["rope_type"] for one in of_kinds if one["rope_type"] not in _ROTARY_TYPES]
    return f"rope_type is {others[0]!r}" if others else None


def restore_frequencies(rotary: nn.Module) -> None:
    """Undo a cast of the rotary frequencies to half precision, which engines apply to all that a model holds.

    Rounded to 8 bits, the angle at position 500 would be off by up to a radian.
    """
    held = dict(rotary.named_buffers())
    if all(buffer.dtype.itemsize >= torch.float32.itemsize for buffer in held.values()):
        return
    made: Any = type(rotary)
    for name, fresh in made(config=rotary.config).named_buffers():
        setattr(rotary, name, fresh.to(held[name].device))
