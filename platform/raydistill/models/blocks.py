"""An encoder in parts: embed, run blocks i to j, the vocabulary head; one class a model family.

Blocks are numbered from 0; ``hs[k]`` is what ``k`` blocks have made of the embeddings, as in the ``hidden_states``
of transformers. Every submodule is called, never read, so hooks on it (ZeRO-3 gathers weights in them) fire; the
projection of the vocabulary head alone is handed out as weights, for the chunked losses.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn


class Blocks(ABC):
    """Parts of one encoder with a masked-language-modelling head."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    @abstractmethod
    def layers(self) -> nn.ModuleList:
        """The blocks in order."""

    @property
    def num_blocks(self) -> int:
        """Number of blocks."""
        return len(self.layers)

    @property
    def num_heads(self) -> int:
        """Attention heads of a block."""
        return int(self.model.config.num_attention_heads)

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""
        return int(self.model.config.hidden_size)

    @abstractmethod
    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embedding output hs[0] (B, T, D) of ids (B, T) and bool mask (B, T)."""

    @abstractmethod
    def head_states(self, rows: Tensor) -> Tensor:
        """Last hidden states (R, D) to the input (R, D') of the vocabulary projection."""

    @abstractmethod
    def head_projection(self) -> tuple[Tensor, Tensor | None]:
        """Weight (V, D') and bias (V,) of the vocabulary projection."""

    def run(self, hidden: Tensor, attention_mask: Tensor, start: int, stop: int) -> Tensor:
        """hs[start] to hs[stop]: blocks ``start`` to ``stop - 1`` on states (B, T, D), mask bool (B, T)."""
        mask = self._attention_bias(attention_mask, hidden.dtype)
        for layer in self.layers[start:stop]:
            hidden = layer(hidden, mask)
        return hidden

    def _attention_bias(self, attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
        """The mask as the attention takes it, broadcast over heads and queries: (B, 1, 1, T).

        A view for ``sdpa``. Never dropped where all tokens are real: finding that out would wait for the device.
        """
        keep = attention_mask[:, None, None, :]
        if self.model.config._attn_implementation == "sdpa":
            return keep
        return torch.zeros_like(keep, dtype=dtype).masked_fill(~keep, torch.finfo(dtype).min)


class BertBlocks(Blocks):
    """``BertForMaskedLM``."""

    @property
    def layers(self) -> nn.ModuleList:
        """The blocks in order."""
        found: nn.ModuleList = self.model.bert.encoder.layer
        return found

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embedding output, token type 0 added."""
        embedded: Tensor = self.model.bert.embeddings(input_ids=input_ids)
        return embedded

    def head_states(self, rows: Tensor) -> Tensor:
        """Dense, activation and layer norm of the head."""
        states: Tensor = self.model.cls.predictions.transform(rows)
        return states

    def head_projection(self) -> tuple[Tensor, Tensor | None]:
        """The decoder, its weight tied to the word embeddings."""
        decoder = self.model.cls.predictions.decoder
        return decoder.weight, decoder.bias


class DistilBertBlocks(Blocks):
    """``DistilBertForMaskedLM``."""

    @property
    def layers(self) -> nn.ModuleList:
        """The blocks in order."""
        found: nn.ModuleList = self.model.distilbert.transformer.layer
        return found

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embedding output of tokens and positions."""
        embedded: Tensor = self.model.distilbert.embeddings(input_ids)
        return embedded

    def head_states(self, rows: Tensor) -> Tensor:
        """Transform, activation and layer norm of the head."""
        states: Tensor = self.model.vocab_layer_norm(self.model.activation(self.model.vocab_transform(rows)))
        return states

    def head_projection(self) -> tuple[Tensor, Tensor | None]:
        """The projector, its weight tied to the word embeddings."""
        projector = self.model.vocab_projector
        return projector.weight, projector.bias


FAMILIES: dict[str, type[Blocks]] = {"bert": BertBlocks, "distilbert": DistilBertBlocks}
"""Supported model types of transformers configurations."""

ATTENTIONS = ("eager", "sdpa")
"""Supported attention implementations of transformers, those that take a mask over (B, heads, queries, keys)."""


def blocks_of(model: nn.Module) -> Blocks:
    """The parts of a masked-language model.

    Raises ValueError for a family or an attention implementation that is not supported, and for a decoder.
    """
    config: Any = model.config
    if config.model_type not in FAMILIES:
        raise ValueError(f"model type is {config.model_type!r}; choices: {', '.join(sorted(FAMILIES))}")
    if config._attn_implementation not in ATTENTIONS:
        raise ValueError(f"attention is {config._attn_implementation!r}; choices: {', '.join(ATTENTIONS)}")
    if getattr(config, "is_decoder", False):
        raise ValueError("is_decoder is true in the model's configuration; a masked-language model needs false")
    return FAMILIES[config.model_type](model)
