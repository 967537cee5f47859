"""Configurations of students of another shape than their teacher, or of another family."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import CONFIG_MAPPING, PreTrainedConfig

from raydistill.discovery import unknown_choice
from raydistill.models import kept_units, layer_plan
from raydistill.models.blocks import family_of
from raydistill.models.heads import model_class, types_with
from raydistill.user_error import UserError

_OF_EACH_BLOCK = ("layer_types", "no_rope_layers")
"""Values of configurations that have an entry for each block."""
_OF_CLASSES = ("id2label", "label2id", "problem_type")
_OF_TOKENIZER = ("vocab_size",)
_AS_WIDE = ("embedding_size", "pooler_hidden_size", "word_embed_proj_dim")
"""Widths that stay the hidden states' where they are in the teacher."""
_NO_SHAPE = ("is_decoder", "is_encoder_decoder", "add_cross_attention", "use_cache")
"""Keys that make of a model something that no task trains."""


def shortened(teacher: Any, layers: Sequence[int], changes: Mapping[str, Any] | None = None) -> Any:
    """The teacher's configuration with as many blocks as there are numbers in ``layers``, of the same kinds.

    ``changes`` are further keys of it. Raises ValueError where they describe no model.
    """
    values = {**teacher.to_dict(), _own(teacher, "num_hidden_layers"): len(layers)}
    # They are of the teacher's blocks.
    values.pop(layer_plan.KEY, None)
    values.pop(kept_units.KEY, None)
    for name in _OF_EACH_BLOCK:
        if values.get(name):
            values[name] = [values[name][layer % len(values[name])] for layer in layers]
    if not changes:
        return type(teacher)(**values)
    return _described(teacher, _derived_anew(teacher, values, changes) | dict(changes))


def shaped_config(
    teacher: Any, shape: Mapping[str, Any], *, head: str, num_layers: int | None = None, layers: Sequence[int] = ()
) -> Any:
    """The configuration of a student with the keys in ``shape``, of its family's own configuration or its common names.

    ``model_type`` picks another family than the teacher's. What is not given is the teacher's in its family, and what
    transformers starts with in another. Vocabulary, special token ids and classes are the teacher's. ``num_layers`` and
    ``layers`` are as in ``student_config``. Raises ValueError, naming the key, for one that the family lacks and for
    values that describe no model with the named head.
    """
    given = dict(shape)
    model_type = given.pop("model_type", teacher.model_type)
    base = teacher if model_type == teacher.model_type else _of_family(model_type, teacher, head)
    changes = _own_keys(base, given)
    depth_key = _own(base, "num_hidden_layers")
    depth = changes.pop(depth_key, None)
    wanted = len(layers) or num_layers
    if depth is not None and wanted is not None and depth != wanted:
        raise UserError(f"config.{depth_key} is {depth}, but num_layers or layers say {wanted}; leave one out")
    depth = wanted or (getattr(base, depth_key) if depth is None else depth)
    if not isinstance(depth, int) or depth < 1:
        raise UserError(f"config.{depth_key} is {depth!r}; give a number of blocks, at least 1")
    made = shortened(base, layers or range(depth), changes)
    _check_builds(made, head)
    return made


def depth_of(teacher: Any, shape: Mapping[str, Any]) -> Any:
    """The number of blocks that a shape of the teacher's family says, None where it says none."""
    return shape.get("num_hidden_layers", shape.get(_own(teacher, "num_hidden_layers")))


def _own(config: Any, name: str) -> str:
    """The name that a family has for a key that all share."""
    return str(config.attribute_map.get(name, name))


def _of_family(model_type: str, teacher: Any, head: str) -> Any:
    """What transformers starts a family with, for the vocabulary and the classes of a teacher."""
    choices = sorted({*types_with(head)} & {*CONFIG_MAPPING})
    if model_type not in choices:
        raise UserError(unknown_choice("config.model_type", model_type, choices))
    base: Any = CONFIG_MAPPING[model_type]()
    if base.is_encoder_decoder:
        raise UserError(
            f"config.model_type is {model_type!r}, an encoder-decoder, which starts only from one of its own kind; "
            "choose an encoder or a decoder"
        )
    for name in [key for key in base.to_dict() if key.endswith("_token_id")]:
        setattr(base, name, getattr(teacher, name, None))
    for name in (*_OF_TOKENIZER, *_OF_CLASSES):
        setattr(base, name, getattr(teacher, name))
    return base


def _own_keys(base: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Given values by the family's own names; raises ValueError for an unknown key, and for one that is not free."""
    common = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    known = {field.name for field in dataclasses.fields(base)} - common - {*_NO_SHAPE}
    known |= {name for name, own in base.attribute_map.items() if own in known}
    # Many decoders read it from a configuration that does not declare it.
    known |= {name for name in ("head_dim",) if hasattr(base, name)}
    fixed = {name for name in (*known, *_OF_CLASSES) if name.endswith("_token_id")} | {*_OF_TOKENIZER, *_OF_CLASSES}
    found: dict[str, Any] = {}
    for key, value in given.items():
        if key in fixed:
            raise UserError(f"config.{key} is {value!r}, but tokens and classes are those of the teacher; leave it out")
        if key not in known:
            choices = sorted({"model_type", *known} - fixed)
            raise UserError(f"config of a {base.model_type}: {unknown_choice('key', key, choices)}")
        own = _own(base, key)
        if own in found:
            raise UserError(f"config has {key} and {own}, two names of one key; leave one out")
        found[own] = value
    return found


def _derived_anew(base: Any, values: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Values in which those that follow from others in the teacher follow from the student's."""
    keys = [_own(base, name) for name in ("hidden_size", "num_attention_heads")]
    hidden, heads = (values.get(key) for key in keys)
    if not hidden or not heads:
        return values
    found = {**values, **{name: changes.get(keys[0], hidden) for name in _AS_WIDE if values.get(name) == hidden}}
    if values.get("num_key_value_heads") == heads:
        found["num_key_value_heads"] = changes.get(keys[1], heads)
    defaults = {field.name: field.default for field in dataclasses.fields(base)}
    if values.get("head_dim") == hidden // heads and defaults.get("head_dim") is None:
        del found["head_dim"]
    return found


def _described(base: Any, values: dict[str, Any]) -> Any:
    names = [_own(base, name) for name in ("hidden_size", "num_attention_heads", "num_key_value_heads")]
    hidden, heads, groups = (values.get(name) for name in names)
    for name, value in zip(names, (hidden, heads, groups), strict=True):
        if isinstance(value, int) and value < 1:
            raise UserError(f"config.{name} is {value}; give at least 1")
    given_width = values.get(_own(base, "head_dim")) is not None
    if isinstance(hidden, int) and isinstance(heads, int) and hidden % heads and not given_width:
        raise UserError(
            f"config.{names[0]} is {hidden}, which {names[1]}, {heads}, do not divide; "
            f"write {-(-hidden // heads) * heads}, or another number of heads"
        )
    if isinstance(groups, int) and isinstance(heads, int) and heads % groups:
        raise UserError(
            f"config.{names[2]} is {groups}, which does not divide {names[1]}, {heads}; write one that does"
        )
    try:
        return type(base)(**values)
    except Exception as error:
        raise UserError(f"config describes no {base.model_type}: {' '.join(str(error).split())}") from None


def _check_builds(config: Any, head: str) -> None:
    """Raise ValueError for a configuration of which transformers builds no model; allocates none."""
    try:
        family_of(config, head).max_length(config)
        with torch.device("meta"):
            model_class(head).from_config(config)
    except Exception as error:
        raise UserError(f"config describes no {config.model_type}: {' '.join(str(error).split())}") from None
