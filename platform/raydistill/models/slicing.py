"""Students cut out of a teacher of their own family: leading hidden dimensions, some heads and some neurons.

Of each block that is copied the student has leading heads and neurons, or the most important ones by scores, in their
order, and of each head leading dimensions. Where queries share keys and values, whole groups are kept, and of each
leading heads. Everything else, such as embeddings, norms and the head, keeps its leading dimensions.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from raydistill.models import kept_units
from raydistill.models.blocks import Blocks, family_of
from raydistill.models.checks import check_layers
from raydistill.models.heads import head_of, model_class
from raydistill.models.importance import Scores
from raydistill.models.layer_selection import check_copied, fresh_student
from raydistill.models.student_shapes import shaped_config
from raydistill.models.unit_masks import check_units
from raydistill.user_error import UserError

_QUERY, _KEY, _FUSED, _NEURONS = "query", "key", "query, key and value", "neurons"
_OUTPUTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("attention.query", "attn.q", "query_proj", "pos_query_proj", "q_proj", "q_norm"), (_QUERY,)),
    **dict.fromkeys(("attention.key", "attention.value", "attn.k", "attn.v", "key_proj", "value_proj"), (_KEY,)),
    **dict.fromkeys(("pos_key_proj", "k_proj", "v_proj", "k_norm"), (_KEY,)),
    **dict.fromkeys(("Wqkv", "c_attn", "qkv_proj"), (_QUERY, _KEY, _KEY)),
    "query_key_value": (_FUSED,),
    **dict.fromkeys(("intermediate.dense", "ffn", "c_fc", "gate_proj", "up_proj", "fc1", "dense_h_to_4h"), (_NEURONS,)),
    **dict.fromkeys(("mlp.Wi", "gate_up_proj"), (_NEURONS, _NEURONS)),
}
"""What the outputs of modules in blocks are made of, by the end of their names, in families without ``UNITS``."""
_INPUTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("attention.dense", "attention.output.dense", "attn.o", "attn.Wo", "attn.c_proj"), (_QUERY,)),
    **dict.fromkeys(("o_proj", "out_proj"), (_QUERY,)),
    **dict.fromkeys(("ffn_output", "mlp.Wo", "mlp.c_proj", "down_proj", "fc2", "dense_4h_to_h"), (_NEURONS,)),
    "output.dense": (_NEURONS,),
}
"""What their inputs are made of; of two ends that fit the longer one counts."""


class _Sizes(NamedTuple):
    """Heads of a block, their groups and their width."""

    heads: int
    groups: int
    width: int


def sliced_student(
    teacher: nn.Module, shape: Mapping[str, Any], *, layers: Sequence[int] | None = None, scores: Scores | None = None
) -> nn.Module:
    """A student with the blocks ``layers`` of a teacher, by default all, cut to a shape of the teacher's family.

    ``shape`` has keys of the family's configuration in transformers. With ``scores`` of the teacher's heads and neurons
    each block keeps those with the highest, otherwise leading ones. The student is in float32 and in evaluation mode;
    with the teacher's own shape it is the teacher. Shapes are those of the two; there is no unit. Raises ValueError,
    naming the key, for a shape that cannot be cut out of the teacher. Source: none; TinyBERT's shape of 312 dimensions
    is the use of it.

    >>> rd.sliced_student(teacher, {"hidden_size": 8, "num_attention_heads": 1}).config.hidden_size
    8
    """
    source: Any = teacher.config
    head = head_of(teacher)
    copied = list(range(source.num_hidden_layers)) if layers is None else list(layers)
    config = sliced_config(source, shape, head=head, layers=copied, important=scores is not None)
    student = fresh_student(config, seed=0, head=head)
    student.load_state_dict(_state(teacher, student, copied, scores))
    return student


def sliced_config(
    teacher: Any, shape: Mapping[str, Any], *, head: str, layers: Sequence[int], important: bool = False
) -> Any:
    """The configuration of a ``sliced_student``, given the teacher's; allocates no model.

    ``important`` tells that there are scores. Raises ValueError as ``sliced_student`` does.
    """
    if shape.get("model_type", teacher.model_type) != teacher.model_type:
        raise UserError(
            f"config.model_type is {shape['model_type']!r}, but a student is sliced out of a teacher of its own "
            f"family, {teacher.model_type}; write init: random"
        )
    family = family_of(teacher, head)
    if not family.IN_PARTS:
        raise UserError(f"a {teacher.model_type} cannot be sliced; raydistill ls models lists the packed families")
    if kept_units.kept_of(teacher) is not None:
        raise UserError("the teacher is pruned; slice the checkpoint that it was pruned from")
    check_layers(layers, teacher.num_hidden_layers, key="layers")
    check_copied(teacher, layers)
    if important:
        check_units(teacher)
    config = shaped_config(teacher, shape, head=head, layers=layers)
    _check_heads(teacher, config)
    _check_tensors(teacher, config, head, layers)
    return config


def _check_heads(teacher: Any, student: Any) -> None:
    theirs, own = _sizes(teacher), _sizes(student)
    if own.width > theirs.width:
        raise UserError(
            f"config gives heads that are {own.width} wide, the teacher's are {theirs.width}; lower hidden_size, or "
            "keep more heads"
        )
    if own.width < theirs.width and getattr(teacher, "rope_parameters", None):
        raise UserError(
            f"config gives heads that are {own.width} wide, but rotary positions go with the teacher's width, "
            f"{theirs.width}; choose num_attention_heads, or head_dim, so that it stays"
        )
    if own.heads > theirs.heads:
        raise UserError(f"config has {own.heads} attention heads, the teacher {theirs.heads}; keep at most as many")
    if own.groups > theirs.groups or own.heads * theirs.groups > theirs.heads * own.groups:
        raise UserError(
            f"config has {own.groups} groups of {own.heads // own.groups} heads, the teacher {theirs.groups} groups of "
            f"{theirs.heads // theirs.groups}; choose num_key_value_heads so that neither is more"
        )


def _check_tensors(teacher: Any, student: Any, head: str, layers: Sequence[int]) -> None:
    """Raise ValueError where a tensor of the student is larger than the teacher's, or where that has none."""
    with torch.device("meta"):
        source, made = (model_class(head).from_config(config) for config in (teacher, student))
    theirs, block_of = source.state_dict(), _blocks_of_names(source, layers)
    for name, tensor in made.state_dict().items():
        found = theirs.get(block_of(name)[0])
        if found is None:
            raise UserError(f"config has {name}, which the teacher lacks, so it cannot be sliced; write init: random")
        if any(own > other for own, other in zip(tensor.shape, found.shape, strict=True)):
            raise UserError(
                f"config has {name} of shape {tuple(tensor.shape)}, the teacher's is {tuple(found.shape)}; give sizes "
                "that are no larger"
            )


def _sizes(config: Any) -> _Sizes:
    heads = int(config.num_attention_heads)
    groups = int(getattr(config, "num_key_value_heads", None) or heads)
    width = getattr(config, "head_dim", None) or int(config.hidden_size) // heads
    return _Sizes(heads, groups, int(width))


def _blocks_of_names(teacher: Any, layers: Sequence[int]) -> Callable[[str], tuple[str, int | None]]:
    """From a tensor's name in the student to the teacher's, and to the position of its block, None outside of them."""
    family = family_of(teacher.config, head_of(teacher))
    prefix = f"{family.layers_name(teacher)}."

    def found(name: str) -> tuple[str, int | None]:
        if not name.startswith(prefix):
            return name, None
        number, _, rest = name.removeprefix(prefix).partition(".")
        source = number if family.SHARED else layers[int(number)]
        return f"{prefix}{source}.{rest}", int(number)

    return found


@torch.no_grad()
def _state(teacher: Any, student: Any, layers: Sequence[int], scores: Scores | None) -> dict[str, Tensor]:
    """The student's tensors, cut out of the teacher's."""
    units = _Units(_sizes(teacher.config), _sizes(student.config), scores)
    tensors, block_of, state = teacher.state_dict(), _blocks_of_names(teacher, layers), {}
    outputs, inputs = _made_of(family_of(teacher.config, head_of(teacher)))
    for name, made in student.state_dict().items():
        source, position = block_of(name)
        tensor = tensors[source]
        kinds: dict[int, tuple[str, ...]] = {}
        if position is not None:
            module = source.rpartition(".")[0]
            transposed = isinstance(teacher.get_submodule(module), Conv1D) and tensor.dim() == 2
            kinds = {int(transposed): _ending(outputs, module), int(not transposed): _ending(inputs, module)}
        for dimension, size in enumerate(made.shape):
            layer = None if position is None else layers[position]
            taken = units.taken(kinds.get(dimension, ()), tensor.shape[dimension], size, layer)
            tensor = tensor.index_select(dimension, taken.to(tensor.device))
        state[name] = tensor
    return state


def _made_of(family: type[Blocks]) -> tuple[Mapping[str, tuple[str, ...]], Mapping[str, tuple[str, ...]]]:
    """What outputs and inputs of the modules in a family's blocks are made of, by the end of their names."""
    names = family.UNITS
    if names is None:
        return _OUTPUTS, _INPUTS
    heads = {names.query: (_QUERY,), names.key: (_KEY,), names.value: (_KEY,), names.intermediate: (_NEURONS,)}
    return heads, {names.attention_output: (_QUERY,), names.output: (_NEURONS,)}


def _ending(table: Mapping[str, tuple[str, ...]], module: str) -> tuple[str, ...]:
    fitting = [end for end in table if f".{module}".endswith(f".{end}")]
    return table[max(fitting, key=len)] if fitting else ()


class _Units(NamedTuple):
    """Which heads, dimensions of heads and neurons a student keeps of each block of its teacher."""

    theirs: _Sizes
    own: _Sizes
    scores: Scores | None

    def taken(self, kinds: Sequence[str], theirs: int, own: int, layer: int | None) -> Tensor:
        """Numbers (own,) of what is kept of ``theirs`` that are made of ``kinds``, one after another."""
        shares = [self._of(kind, theirs // len(kinds), own // len(kinds), layer) for kind in kinds]
        if not shares or sum(length for _, length in shares) != theirs:
            # Neither heads nor neurons; or a norm of single heads, which other families have of all.
            return torch.arange(own)
        starts = torch.tensor([0, *(length for _, length in shares)]).cumsum(0)
        return torch.cat([numbers + start for (numbers, _), start in zip(shares, starts, strict=False)])

    def _of(self, kind: str, theirs: int, own: int, layer: int | None) -> tuple[Tensor, int]:
        """What is kept of one kind, and how many there are."""
        if kind == _NEURONS:
            return self._best(None if self.scores is None else self.scores.neurons, own, layer), theirs
        parts, width = 3 if kind == _FUSED else 1, self.theirs.width
        number = self.theirs.groups if kind == _KEY else self.theirs.heads
        starts = self._heads(layer, of_groups=kind == _KEY)[:, None] * parts + torch.arange(parts)
        return (starts.flatten()[:, None] * width + torch.arange(self.own.width)).flatten(), number * parts * width

    def _heads(self, layer: int | None, *, of_groups: bool) -> Tensor:
        """Numbers of the heads that are kept, or of their groups."""
        if self.scores is not None:
            return self._best(self.scores.heads, self.own.heads, layer)
        groups = torch.arange(self.own.groups)
        if of_groups:
            return groups
        each = torch.arange(self.own.heads // self.own.groups)
        return (groups[:, None] * (self.theirs.heads // self.theirs.groups) + each).flatten()

    @staticmethod
    def _best(scores: Tensor | None, number: int, layer: int | None) -> Tensor:
        """So many units of a block with the highest scores, in their order; without scores the leading ones."""
        if scores is None:
            return torch.arange(number)
        return scores[layer].sort(descending=True, stable=True).indices[:number].sort().values
