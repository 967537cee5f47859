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
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from raydistill.layout import Layout
from raydistill.models import layer_plan
from raydistill.models.blocks._attention import SUPPORTED, packed, sees_all
from raydistill.models.checkpointing import checkpointed, uses_checkpointing
from raydistill.models.heads import has_head
from raydistill.user_error import UserError

NEEDS = {
    "logits": "what its head says",
    "pooled": "the state of a token that stands for its row",
    "last_states": "the last hidden states, as transformers returns them",
    "all_states": "the states before and after every block",
    "sites": "states that are written during a pass",
    "units": "attention heads and neurons that can be taken away",
    "attention": "queries and keys that a layer plan can exchange",
}
"""What methods read of models, or do to them, by name; a family states what it has, a method what it needs."""

FULL, SLIDING = "full_attention", "sliding_attention"
"""Kinds of blocks: each token sees all, or those in a window."""


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

    MODEL_TYPES: ClassVar[tuple[str, ...]]
    """The ``model_type`` in transformers of all models whose parts are these."""
    IN_PARTS: ClassVar[bool] = True
    """Whether a model runs block by block on packed states; if not, whole on padded rows."""
    ATTENTION: ClassVar[str | None] = SUPPORTED
    """The attention of transformers that models are loaded with; None for what transformers chooses."""
    HEAD: ClassVar[str]
    """The vocabulary head: ``masked_lm``, whose tokens see the whole row, or ``causal_lm``, whose tokens see those
    before them."""
    OUTPUTS: ClassVar[Mapping[str, str]] = {}
    """The other heads, ``sequence_classification``, ``token_classification``, ``question_answering``, and the linear
    layer that gives each one's logits."""
    LAYERS: ClassVar[str]
    """Name of the list of blocks in the model."""
    PROJECTION: ClassVar[str]
    """Name of the vocabulary projection, whose weight is the word embeddings' where the two are tied."""
    HEAD_TENSORS: ClassVar[tuple[str, ...]] = ()
    """Tensors that every checkpoint with the head has and one without it lacks."""
    HEAD_TRANSFORM: ClassVar[tuple[str, ...]] = ()
    """Modules of the head before the projection that the published extraction of a student leaves out by default."""

    SHARED: ClassVar[bool] = False
    """Whether a block with weights runs several times as the configuration says, without a layer plan."""
    FIRST_DIFFERS: ClassVar[bool] = False
    """Whether block 0 is unlike the others, so that it can stand in its own place alone."""
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
    def heads(cls, config: Any) -> tuple[str, ...]:
        """Names of the heads that models of a configuration's type can have."""
        return tuple(head for head in (cls.HEAD, *cls.OUTPUTS) if has_head(config.model_type, head))

    @classmethod
    def vocabulary_head(cls, config: Any) -> str | None:
        """The one of the heads whose outputs are tokens; None where there is none."""
        return cls.HEAD

    @classmethod
    def has(cls, config: Any) -> frozenset[str]:
        """What a method can have of a model, of ``NEEDS``."""
        found = {"logits", "pooled", "last_states", "all_states", "sites"}
        if cls.UNITS is not None:
            found.add("units")
        if cls.QUERY_AND_KEY is not None:
            found.add("attention")
        return frozenset(found)

    @classmethod
    def limit(cls, config: Any) -> str | None:
        """Why a model of this configuration cannot run in parts, in a few words; None if it can."""
        return None

    @classmethod
    def refusal(cls, config: Any) -> str | None:
        """Why a model configuration of the family is not supported, in one line; None if it is."""
        return None

    @classmethod
    def check_plan(cls, config: Any) -> None:
        """Raise ValueError for a layer plan that is wrong, or that the family does not have."""
        if layer_plan.plan_of(config) is not None and cls.QUERY_AND_KEY is None:
            raise UserError(
                f"layer_plan is set, but the model is a {config.model_type}; raydistill ls models shows which take one"
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

    @classmethod
    def last_width(cls, config: Any) -> int:
        """Width of the last hidden states, which is that of all others but in one family."""
        return int(config.hidden_size)

    @classmethod
    def output_layer(cls, model: Any, head: str) -> Any:
        """The linear layer of a model that gives the logits of a named head other than the vocabulary's."""
        return model.get_submodule(cls.OUTPUTS[head])

    @classmethod
    def layers_name(cls, model: Any) -> str:
        """Name of the list of blocks with weights in a model."""
        return cls.LAYERS

    @property
    def layers(self) -> nn.ModuleList:
        """The blocks with weights, in order."""
        found: nn.ModuleList = self.model.get_submodule(self.layers_name(self.model))
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
        kinds = [self.kind_of(block) for block in range(start, stop)]
        inputs = {kind: self.block_inputs(hidden, layout, kind) for kind in dict.fromkeys(kinds)}
        states = hidden.unsqueeze(0)
        keeps_inputs = uses_checkpointing(self.model)
        for (layer, swap), kind in zip(self._steps(start, stop), kinds, strict=True):
            once = partial(self._run_once, layer, swap=swap, layout=layout, inputs=inputs[kind])
            states = checkpointed(layer, once, states) if keeps_inputs else once(states)
        return states.squeeze(0)

    def _run_once(
        self, layer: nn.Module, states: Tensor, *, swap: bool, layout: Layout, inputs: dict[str, Any]
    ) -> Tensor:
        """``run_block`` with all that it needs around it, whenever it is called."""
        with packed(self.model.config), self._swapped(layer) if swap else nullcontext():
            return self.run_block(layer, states, layout, inputs)

    def run_block(self, layer: nn.Module, states: Tensor, layout: Layout, inputs: dict[str, Any]) -> Tensor:
        """One block on packed states (1, R, D), given its ``block_inputs``."""
        output: Tensor = layer(states, layout=layout, **inputs)
        return output

    def kind_of(self, block: int) -> str:
        """What tells a block from those that take other inputs: its entry in the configuration's ``layer_types``."""
        kinds = getattr(self.model.config, "layer_types", None)
        return str(kinds[block]) if kinds else FULL

    def _steps(self, start: int, stop: int) -> list[tuple[nn.Module, bool]]:
        """Blocks ``start`` to ``stop - 1`` and whether query and key are exchanged in each."""
        if self._plan is None:
            return [(layer, False) for layer in self.layers[start:stop]]
        return [(self.layers[number], swap) for number, swap in self._plan[start:stop]]

    def _swapped(self, layer: nn.Module) -> AbstractContextManager[None]:
        assert self.QUERY_AND_KEY is not None
        return layer_plan.exchanged(layer, self.QUERY_AND_KEY)

    def block_inputs(self, hidden: Tensor, layout: Layout, kind: str) -> dict[str, Any]:
        """What each block of a kind takes besides the states (R, D) and the layout; masks are over padded rows."""
        return sees_all(layout)

    def forward(
        self, ids: Tensor, layout: Layout, token_types: Tensor | None = None, *, with_states: bool = False
    ) -> tuple[Any, tuple[Tensor, ...]]:
        """The end of a pass over packed ids (R,), which the functions below read, and if asked for hs[0] to hs[N]."""
        hidden = self.embed(ids, layout, token_types)
        if not with_states:
            return self.run(hidden, layout, 0, self.num_blocks), ()
        states = [hidden]
        for number in range(self.num_blocks):
            states.append(self.run(states[-1], layout, number, number + 1))
        return states[-1], tuple(states)

    def whole(
        self,
        ids: Tensor,
        layout: Layout,
        token_types: Tensor | None = None,
        *,
        read: Collection[int] = (),
        write: Mapping[int, Callable[[Tensor], Tensor]] | None = None,
    ) -> tuple[Any, dict[int, Tensor]]:
        """The end of a pass of a model that runs whole, and its states (R, D) after ``read`` numbers of blocks.

        ``write`` has functions from states (R, D), after a number of blocks, to those that take their place.
        """
        raise NotImplementedError("a model that runs in parts")

    def states_of(self, end: Any) -> Tensor:
        """Last hidden states (R, D) of transformers at the end of a pass."""
        return self.last_states(end)

    def sequence_logits(self, end: Any, pooled: Tensor, layout: Layout) -> Tensor:
        """Logits (B, C) of rows, given their ``pooled_places`` (B,)."""
        return self.class_logits(self.last_states(end.index_select(0, pooled)))

    def token_logits_at(self, end: Any, places: Tensor) -> Tensor:
        """Logits (P, C) of a token-classification head of some of the packed states."""
        return self.token_logits(self.last_states(end.index_select(0, places)))

    def span_logits_of(self, end: Any) -> Tensor:
        """Logits (R, 2) of being an answer's first and last token."""
        return self.span_logits(self.last_states(end))

    def head_rows(self, end: Any, places: Tensor, states: Tensor | None = None) -> Tensor:
        """Inputs (P, D') of the vocabulary projection of some of the packed states.

        ``states`` are those that ``states_of`` gave, where they are there.
        """
        if states is None:
            return self.head_states(end.index_select(0, places))
        return self.head_transform(states.index_select(0, places))

    def pooled_places(self, layout: Layout, ids: Tensor) -> Tensor:
        """Numbers (B,) of the packed states that stand for their rows, of packed ids (R,), in classifications.

        The first of each row for encoders. For decoders, whose other tokens do not see the whole row, the last whose
        id is not the configuration's ``pad_token_id``, also where a text ends with that id itself; the last token where
        there is no such id, and the first of a row that has no other. So transformers pools each row, but for rows
        without a ``pad_token_id``, of which it takes one at a time.
        Source: ``GenericForSequenceClassification`` and ``GPT2ForSequenceClassification`` of transformers 5.
        """
        return self.pooled_by(layout, ids, self.HEAD == "causal_lm")

    def pooled_by(self, layout: Layout, ids: Tensor, is_decoder: bool) -> Tensor:
        """``pooled_places`` of decoders or of encoders."""
        starts = torch.arange(layout.num_rows, device=ids.device) * layout.width
        if not is_decoder:
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

    def head_projection(self) -> tuple[Tensor | None, Tensor | None]:
        """Weight (V, D') and bias (V,), or None without one, of the vocabulary projection; no weight: no projection."""
        projection: Any = self.model.get_submodule(self.PROJECTION)
        return projection.weight, projection.bias
