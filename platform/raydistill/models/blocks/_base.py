"""What every model family provides.

Blocks are numbered from 0; ``hs[k]`` is what ``k`` blocks have made of the embeddings, so ``hs[k]`` is the input of
block k and ``hs[k + 1]`` its output. For k below the number of blocks N it equals ``hidden_states[k]`` of transformers,
and ``last_states(hs[N])`` equals ``hidden_states[N]``: decoders normalize after their last block, and transformers
shows only the result. Every submodule is called, never read, so hooks on it (ZeRO-3 gathers weights in them) fire;
the projection of the vocabulary head alone is handed out as weights, for the chunked losses.

With a layer plan (``models/layer_plan.py``) blocks are numbered as they run: one with weights may stand for several.

States are packed: those of R tokens one under another (R, D), with a ``Layout`` that says where in their rows they
stand. Token ids are packed alike.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from raydistill.layout import Layout
from raydistill.models import layer_plan
from raydistill.models.blocks._attention import packed, padding_mask
from raydistill.user_error import UserError


class UnitNames(NamedTuple):
    """Names, in a block, of the modules that its attention heads and its feed-forward neurons are made of."""

    attention: str
    """What takes the states and returns those of the heads, or those of the output, and weights."""
    query: str
    key: str
    value: str
    attention_output: str
    """Linear layer that takes the heads' states, one head after another."""
    intermediate: str
    """Linear layer that makes the neurons, before their activation."""
    output: str
    """Linear layer that takes the neurons."""


BERT_UNITS = UnitNames(
    attention="attention.self",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_output="attention.output.dense",
    intermediate="intermediate.dense",
    output="output.dense",
)
"""Of BERT's blocks and of those that RoBERTa took over."""


class Blocks(ABC):
    """Parts of one model with a head; a family's module names the subclass ``Family``."""

    HEAD: ClassVar[str]
    """The vocabulary head: ``masked_lm``, whose tokens see the whole row, or ``causal_lm``, whose tokens see those
    before them."""
    OUTPUTS: ClassVar[Mapping[str, str]] = {}
    """The other heads, ``sequence_classification``, ``token_classification``, ``question_answering``, and the linear
    layer that gives each one's logits."""
    HEAD_MODULES: ClassVar[tuple[str, ...]] = ()
    """Name prefixes of modules that belong to these heads although they do not lie beside the encoder."""
    LAYERS: ClassVar[str]
    """Name of the list of blocks in the model."""
    PROJECTION: ClassVar[str]
    """Name of the vocabulary projection, whose weight is the word embeddings' where the two are tied."""
    HEAD_TENSORS: ClassVar[tuple[str, ...]] = ()
    """Tensors that every checkpoint with the head has and one without it lacks."""
    HEAD_TRANSFORM: ClassVar[tuple[str, ...]] = ()
    """Modules of the head before the projection that the published extraction of a student leaves out by default."""

    QUERY_AND_KEY: ClassVar[tuple[str, str] | None] = None
    """Names of the query and key projections in a block, which a layer plan may exchange; None: no plans."""
    RELATIVE: ClassVar[bool] = False
    """Whether tokens see how far others are from them, not where in the row they stand."""
    UNITS: ClassVar[UnitNames | None] = None
    """Where heads and neurons are in a block; None: they cannot be scored and pruned."""

    def __init__(self, model: Any) -> None:
        self.model = model
        plan = layer_plan.plan_of(model.config)
        self._plan = None if plan is None else layer_plan.plain(plan)

    @classmethod
    def refusal(cls, config: Any) -> str | None:
        """Why a model configuration of the family is not supported, in one line; None if it is."""
        return None

    @classmethod
    def check_plan(cls, config: Any) -> None:
        """Raise ValueError for a layer plan that is wrong, or that the family does not have."""
        if layer_plan.plan_of(config) is not None and cls.QUERY_AND_KEY is None:
            raise UserError(
                f"layer_plan is set, but the model is a {config.model_type}; it needs a bert, distilbert or roberta"
            )

    @classmethod
    def head_tensors(cls, config: Any, head: str) -> tuple[str, ...]:
        """Tensors that a checkpoint with a head has and one without it lacks; none if the head is all tied."""
        if head in cls.OUTPUTS:
            return (f"{cls.OUTPUTS[head]}.weight",)
        return cls.HEAD_TENSORS if config.tie_word_embeddings else (*cls.HEAD_TENSORS, f"{cls.PROJECTION}.weight")

    @classmethod
    def max_length(cls, config: Any) -> int:
        """Most tokens of a row."""
        return int(config.max_position_embeddings)

    @property
    def layers(self) -> nn.ModuleList:
        """The blocks with weights, in order."""
        found: nn.ModuleList = self.model.get_submodule(self.LAYERS)
        return found

    @property
    def num_blocks(self) -> int:
        """Number of blocks that run one after another."""
        return len(self.layers) if self._plan is None else len(self._plan)

    def draw_plan(self, *, seed: int, step: int) -> None:
        """Decide, while the model trains, what a layer plan leaves to be drawn in an optimizer step.

        Otherwise, and in evaluation, it is plain.
        """
        plan = layer_plan.plan_of(self.model.config)
        if plan is not None and self.model.training and layer_plan.is_drawn(plan):
            self._plan = layer_plan.plain(plan, layer_plan.drawn_blocks(len(self.layers), seed=seed, step=step))

    @property
    def num_heads(self) -> int:
        """Attention heads of a block."""
        return int(self.model.config.num_attention_heads)

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""
        return int(self.model.config.hidden_size)

    @abstractmethod
    def embed(self, input_ids: Tensor, layout: Layout, token_types: Tensor | None = None) -> Tensor:
        """Embedding output hs[0] (R, D) of packed ids (R,) and, for families that have them, token types (R,)."""

    def run(self, hidden: Tensor, layout: Layout, start: int, stop: int) -> Tensor:
        """hs[start] to hs[stop]: blocks ``start`` to ``stop - 1`` on packed states (R, D).

        Where the layout has places of padding, an encoder's states there are those of transformers on padded rows;
        they reach no state of a real token.
        """
        if start == stop:
            return hidden
        inputs = self.block_inputs(hidden, layout)
        states = hidden.unsqueeze(0)
        with packed(self.model.config):
            for layer, swap in self._steps(start, stop):
                with self._swapped(layer) if swap else nullcontext():
                    states = layer(states, layout=layout, **inputs)
        return states.squeeze(0)

    def _steps(self, start: int, stop: int) -> list[tuple[nn.Module, bool]]:
        """Blocks ``start`` to ``stop - 1`` and whether query and key are exchanged in each."""
        if self._plan is None:
            return [(layer, False) for layer in self.layers[start:stop]]
        return [(self.layers[number], swap) for number, swap in self._plan[start:stop]]

    def _swapped(self, layer: nn.Module) -> AbstractContextManager[None]:
        assert self.QUERY_AND_KEY is not None
        return layer_plan.exchanged(layer, self.QUERY_AND_KEY)

    def block_inputs(self, hidden: Tensor, layout: Layout) -> dict[str, Any]:
        """What each block takes besides the states (R, D) and the layout; masks are over padded rows."""
        return {"attention_mask": padding_mask(layout)}

    def pooled_places(self, layout: Layout, ids: Tensor) -> Tensor:
        """Numbers (B,) of the packed states that stand for their rows, of packed ids (R,), in classifications.

        The first of each row for encoders. For decoders, whose other tokens do not see the whole row, the last whose
        id is not the configuration's ``pad_token_id``, also where a text ends with that id itself; the last token where
        there is no such id, and the first of a row that has no other. So transformers pools each row, but for rows
        without a ``pad_token_id``, of which it takes one at a time.
        Source: ``GenericForSequenceClassification`` and ``GPT2ForSequenceClassification`` of transformers 5.
        """
        starts = torch.arange(layout.num_rows, device=ids.device) * layout.width
        if self.HEAD == "masked_lm":
            return layout.places(starts)
        pad_id = self.model.config.pad_token_id
        counts = layout.real if pad_id is None else layout.real & (ids != pad_id)
        last = torch.zeros_like(starts).scatter_reduce(0, layout.row, layout.position * counts, "amax")
        return layout.places(starts + last)

    def class_logits(self, last_states: Tensor) -> Tensor:
        """Last hidden states (B, D) at ``pooled_places`` to logits (B, C) of a sequence-classification head."""
        raise NotImplementedError

    def token_logits(self, last_states: Tensor) -> Tensor:
        """Last hidden states (R, D) to logits (R, C) of a token-classification head: dropout and a linear layer."""
        logits: Tensor = self.model.classifier(self.model.dropout(last_states))
        return logits

    def span_logits(self, last_states: Tensor) -> Tensor:
        """Last hidden states (R, D) to logits (R, 2) of being an answer's first and last token: a linear layer."""
        logits: Tensor = self.model.qa_outputs(last_states)
        return logits

    def last_states(self, rows: Tensor) -> Tensor:
        """Rows (R, D) of the last block's output to the last hidden states of transformers: here they are the same."""
        return rows

    def head_transform(self, last_states: Tensor) -> Tensor:
        """Last hidden states (R, D) to the input (R, D') of the vocabulary projection: here they are the same."""
        return last_states

    def head_states(self, rows: Tensor) -> Tensor:
        """Rows (R, D) of the last block's output to the input (R, D') of the vocabulary projection."""
        return self.head_transform(self.last_states(rows))

    def head_projection(self) -> tuple[Tensor, Tensor | None]:
        """Weight (V, D') and bias (V,), or None without one, of the vocabulary projection."""
        projection: Any = self.model.get_submodule(self.PROJECTION)
        return projection.weight, projection.bias
