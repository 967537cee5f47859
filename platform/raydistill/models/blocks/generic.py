"""Any other model of transformers, run whole by its own forward on padded rows.

Slower than a family that runs packed, and as right as transformers: nothing of the model is imitated. Hidden states are
read, and written for interventions, by hooks on its list of blocks. ``hs[k]`` is what enters block k, and what leaves
the last block for k = N. Of encoder-decoders they are the encoder's.
"""

import inspect
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from raydistill.layout import Layout
from raydistill.models.blocks import _base
from raydistill.models.checkpointing import blocks_checkpointed, uses_checkpointing
from raydistill.models.heads import HEADS, VOCABULARY_HEADS, has_head, head_of, model_class
from raydistill.user_error import UserError

BLOCKS = "raydistill_blocks"
"""Attribute of a transformers configuration that names the list of blocks, such as ``encoder.layer``."""
NO_LIMIT = 2**30
"""Most tokens of a row of a model that has no table of positions."""


class Whole(NamedTuple):
    """What a model said of padded rows, packed."""

    said: Any
    """The output of transformers."""
    last: Tensor | None
    """Its last hidden states (R, D); None where it shows none."""
    layout: Layout


class Family(_base.Blocks):
    """A model of which only transformers knows how it runs."""

    MODEL_TYPES = ()
    IN_PARTS = False
    ATTENTION = None

    @classmethod
    def heads(cls, config: Any) -> tuple[str, ...]:
        """Those that transformers has; of the vocabulary heads the one that the model is made for."""
        wanted = {cls.vocabulary_head(config), *HEADS} - ({*VOCABULARY_HEADS} - {cls.vocabulary_head(config)})
        return tuple(head for head in HEADS if head in wanted and has_head(config.model_type, head))

    @classmethod
    def vocabulary_head(cls, config: Any) -> str | None:
        """``causal_lm`` for decoders, ``masked_lm`` for encoders and None for models that are both."""
        if config.is_encoder_decoder:
            return None
        is_masked = has_head(config.model_type, "masked_lm") and not getattr(config, "is_decoder", False)
        return "masked_lm" if is_masked or not has_head(config.model_type, "causal_lm") else "causal_lm"

    @classmethod
    def has(cls, config: Any) -> frozenset[str]:
        """Outputs always; states where there is a list of blocks; what stands for a row where tokens do."""
        found = {"logits", "last_states"}
        if not config.is_encoder_decoder:
            found.add("pooled")
        if blocks_in(_shape_of(config)) is not None:
            found |= {"all_states", "sites"}
        return frozenset(found)

    @classmethod
    def head_tensors(cls, config: Any, head: str) -> tuple[str, ...]:
        """All that lie beside the model that the head is put on."""
        model = _on_meta(config, head)
        prefix = f"{model.base_model_prefix}."
        return tuple(name for name, _ in model.named_parameters() if not name.startswith(prefix))

    @classmethod
    def output_layer(cls, model: Any, head: str) -> nn.Module:
        """The last linear layer beside the model with as many outputs as there are classes."""
        inside = {id(module) for module in model.base_model.modules()}
        found = [one for one in model.modules() if isinstance(one, nn.Linear) and id(one) not in inside]
        found = [one for one in found if one.out_features == model.config.num_labels]
        if not found:
            raise UserError(f"the classes of a {model.config.model_type} cannot be told apart in its {head} head")
        return found[-1]

    @classmethod
    def layers_name(cls, model: Any) -> str:
        """Found among the model's modules, or named by its configuration."""
        name = blocks_in(model)
        if name is None:
            kind, depth = model.config.model_type, getattr(model.config, "num_hidden_layers", "?")
            raise UserError(
                f"no list of {depth} blocks was found in the {kind}; "
                f'name it beside the checkpoint, as blocks: encoder.layer, or in its config.json as "{BLOCKS}"'
            )
        return name

    @classmethod
    def max_length(cls, config: Any) -> int:
        """The size of its table of positions, whose rows up to the padding id may belong to no token."""
        try:
            limit = getattr(config, "max_position_embeddings", None)
        except NotImplementedError:
            limit = None
        if not isinstance(limit, int) or limit < 1:
            return NO_LIMIT
        tables = [
            module
            for name, module in _shape_of(config).named_modules()
            if name.rpartition(".")[2] == "position_embeddings" and isinstance(module, nn.Embedding)
        ]
        skipped = [int(one.padding_idx) + 1 for one in tables if one.padding_idx is not None]
        return limit - max(skipped, default=0)

    @property
    def num_blocks(self) -> int:
        """Number of blocks."""
        return int(self.model.config.num_hidden_layers)

    def embed(self, input_ids: Tensor, layout: Layout, token_types: Tensor | None = None) -> Tensor:
        """Never asked for: the model runs whole."""
        raise NotImplementedError

    def forward(
        self, ids: Tensor, layout: Layout, token_types: Tensor | None = None, *, with_states: bool = False
    ) -> tuple[Whole, tuple[Tensor, ...]]:
        """See the base class."""
        end, states = self.whole(ids, layout, token_types, read=range(self.num_blocks + 1) if with_states else ())
        return end, tuple(states.values())

    def whole(
        self,
        ids: Tensor,
        layout: Layout,
        token_types: Tensor | None = None,
        *,
        read: Collection[int] = (),
        write: Mapping[int, Callable[[Tensor], Tensor]] | None = None,
    ) -> tuple[Whole, dict[int, Tensor]]:
        """See the base class; the states come by their numbers, ascending."""
        model = self.model
        inputs = {"input_ids": layout.dense(ids, _padding(model.config)), "attention_mask": layout.mask.long()}
        taken = inspect.signature(model.forward).parameters
        if token_types is not None and "token_type_ids" in taken:
            inputs["token_type_ids"] = layout.dense(token_types, 0)
        options = {"use_cache": False} if "use_cache" in taken else {}
        seen: dict[int, Tensor] = {}
        ends: list[Any] = []
        with ExitStack() as stack:
            # Some heads call a part of the model below them alone; what is left last is outermost.
            for part in model.base_model.modules():
                if hasattr(part, "base_model_prefix"):
                    stack.callback(part.register_forward_hook(lambda *args: ends.append(args[-1])).remove)
            keeps_inputs = uses_checkpointing(model)
            blocks: Any = model.get_submodule(self.layers_name(model)) if read or write or keeps_inputs else ()
            if read or write:
                _Hooks(layout, model.config, set(read), write or {}, seen).put_on(blocks, stack)
            if keeps_inputs:
                stack.enter_context(blocks_checkpointed(blocks))
            if _pools_by_padding(self.model) and model.config.pad_token_id is None and layout.num_rows > 1:
                inputs["input_ids"] = _with_absent_padding(model, ids, layout, stack)
            said = model(**inputs, **options, return_dict=True)
        last = _last_states(ends[-1]) if ends else None
        return Whole(said, None if last is None else layout.take(last), layout), dict(sorted(seen.items()))

    def pooled_places(self, layout: Layout, ids: Tensor) -> Tensor:
        """As of other decoders and encoders."""
        return self.pooled_by(layout, ids, self.vocabulary_head(self.model.config) == "causal_lm")

    def states_of(self, end: Any) -> Tensor:
        """See the base class."""
        if end.last is None:
            raise UserError(f"the {self.model.config.model_type} does not show its last hidden states")
        found: Tensor = end.last
        return found

    def sequence_logits(self, end: Any, pooled: Tensor, layout: Layout) -> Tensor:
        """What the model said."""
        logits: Tensor = end.said.logits
        return logits

    def token_logits_at(self, end: Any, places: Tensor) -> Tensor:
        """What the model said of these tokens."""
        return end.layout.take(end.said.logits).index_select(0, places)

    def span_logits_of(self, end: Any) -> Tensor:
        """What the model said."""
        return end.layout.take(torch.stack([end.said.start_logits, end.said.end_logits], dim=-1))

    def head_rows(self, end: Any, places: Tensor, states: Tensor | None = None) -> Tensor:
        """The logits themselves: a head may do to them what no projection does."""
        return self.token_logits_at(end, places)

    def head_projection(self) -> tuple[Tensor | None, Tensor | None]:
        """None: the rows are logits already."""
        return None, None


class _Hooks:
    """Reads and writes states before each block and after the last one."""

    def __init__(
        self,
        layout: Layout,
        config: Any,
        read: set[int],
        write: Mapping[int, Callable[[Tensor], Tensor]],
        seen: dict[int, Tensor],
    ) -> None:
        self.layout, self.config, self.read, self.write, self.seen = layout, config, read, write, seen
        self.calls = 0

    def put_on(self, blocks: Any, stack: ExitStack) -> None:
        """Hooks on a list of blocks until the stack is left."""
        for number, block in enumerate(blocks):
            entering = block.register_forward_pre_hook(self._enters(number), with_kwargs=True)
            stack.callback(entering.remove)
        stack.callback(blocks[-1].register_forward_hook(self._leaves(len(blocks))).remove)

    def _enters(self, number: int) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if self.calls != number:
                raise UserError(f"block {number} ran as number {self.calls}; name another list of blocks in {BLOCKS}")
            self.calls += 1
            if args:
                return (self._changed(number, args[0]), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": self._changed(number, kwargs["hidden_states"])}

        return hook

    def _leaves(self, number: int) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            if isinstance(output, Tensor):
                return self._changed(number, output)
            return (self._changed(number, output[0]), *output[1:])

        return hook

    def _changed(self, depth: int, states: Tensor) -> Tensor:
        """States (B, T, D) as the model goes on with them; it may have padded rows further."""
        rows, width = self.layout.num_rows, self.layout.width
        if states.dim() != 3 or states.shape[0] != rows or states.shape[1] < width:
            raise UserError(
                f"the blocks of a {self.config.model_type} take states of shape {tuple(states.shape)}, which are not "
                f"one for each of {rows} x {width} tokens; choose a method that reads logits alone"
            )
        real, rest = states[:, :width], states[:, width:]
        if depth in self.write:
            real = self.layout.put(real, self.write[depth](self.layout.take(real)))
            states = torch.cat([real, rest], dim=1)
        if depth in self.read:
            self.seen[depth] = self.layout.take(real)
        return states


def blocks_in(model: Any) -> str | None:
    """Name of a model's list of blocks, by its configuration or as the one list as long as it says; else None.

    Several lists side by side hold parts of blocks.
    """
    named = getattr(model.config, BLOCKS, None)
    base = model.base_model
    prefix = "" if base is model else f"{model.base_model_prefix}."
    if named is not None:
        if not isinstance(dict(base.named_modules()).get(named), nn.ModuleList):
            kind = model.config.model_type
            raise UserError(
                f"{BLOCKS} is {named!r}, which is not a list of blocks of the {kind}; it has {_lists_in(base)}"
            )
        return f"{prefix}{named}"
    depth = getattr(model.config, "num_hidden_layers", None)
    found = [
        name
        for name, module in base.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth and len({type(one) for one in module}) == 1
    ]
    if model.config.is_encoder_decoder:
        found = [name for name in found if "encoder" in name]
    outer = [name for name in found if not any(name.startswith(f"{other}.") for other in found)]
    return f"{prefix}{outer[0]}" if len(outer) == 1 else None


def _lists_in(base: nn.Module) -> str:
    found = [name for name, module in base.named_modules() if isinstance(module, nn.ModuleList)]
    return ", ".join(found) or "none"


def _on_meta(config: Any, head: str) -> Any:
    """A model without values."""
    with torch.device("meta"):
        return model_class(head).from_config(config)


def _shape_of(config: Any) -> Any:
    """A model without values and with any of its heads; raises ValueError where no task knows one."""
    heads = Family.heads(config)
    if not heads:
        raise UserError(f"the model is a {config.model_type}, which has no head of: {', '.join(HEADS)}")
    return _on_meta(config, heads[0])


def _padding(config: Any) -> int:
    return 0 if config.pad_token_id is None else int(config.pad_token_id)


def _pools_by_padding(model: Any) -> bool:
    return head_of(model) == "sequence_classification" and not model.config.is_encoder_decoder


def _with_absent_padding(model: Any, ids: Tensor, layout: Layout, stack: ExitStack) -> Tensor:
    """Ids (B, T) padded with one that is not among them and that the configuration names until the stack is left.

    Without a padding id transformers takes only one row at a time, of which it pools the last token.
    """
    present = set(ids.tolist())
    absent = next(number for number in range(model.config.vocab_size) if number not in present)
    stack.callback(setattr, model.config, "pad_token_id", None)
    model.config.pad_token_id = absent
    return layout.dense(ids, absent)


def _last_states(output: Any) -> Tensor | None:
    """Of an encoder-decoder the encoder's."""
    name = "encoder_last_hidden_state" if hasattr(output, "encoder_last_hidden_state") else "last_hidden_state"
    found: Tensor | None = getattr(output, name, None)
    return found
