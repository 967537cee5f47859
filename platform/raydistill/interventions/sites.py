"""Which activations of a teacher and a student correspond: the neuron-mapping (.nm) notation and its presets.

A ``.nm`` file is JSON, ``{"interchange_variable_mappings": [{"teacher_variable_names": [...],
"student_variable_names": [...]}, ...]}``. The outer list holds groups, of which one is drawn; the inner lists hold
alternatives, of which one a side is drawn. An alternative is ``$L:<layer>$H:<head>$[<a>:<b>]``, where layer and
head are an integer or a half-open range ``[p:q]`` and ``[a:b]`` is a slice of dimensions inside each head. The
short form ``$L:<layer>``, which published files do not use, is the whole vector whatever its width.
"""

import json
import re
from collections.abc import Mapping as MappingType
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from raydistill import discovery, draws
from raydistill.user_error import UserError

_GROUPS_KEY = "interchange_variable_mappings"
_TEACHER_KEY = "teacher_variable_names"
_STUDENT_KEY = "student_variable_names"
_INDEX = r"(\d+|\[\d+:\d+\])"
_VARIABLE = re.compile(rf"\$L:{_INDEX}(?:\$H:{_INDEX}\$\[(\d+):(\d+)\])?")


@dataclass(frozen=True)
class Site:
    """One head's dimensions [start, stop) of one block's output, or with head None the whole vector."""

    layer: int
    head: int | None = None
    start: int = 0
    stop: int = 0


Variable = tuple[Site, ...]
"""What is swapped together in one model: all sites of one alternative."""


@dataclass(frozen=True)
class Group:
    """Alternatives of the teacher and of the student; one of each is drawn, independently."""

    teacher: tuple[Variable, ...]
    student: tuple[Variable, ...]


@dataclass(frozen=True)
class Mapping:
    """Groups of corresponding variables; one is drawn at a time."""

    groups: tuple[Group, ...]


def parse_variable(text: str) -> Variable:
    """The sites of one variable string, layer-major, then head.

    Raises ValueError for text outside the grammar and for empty ranges.
    """
    match = _VARIABLE.fullmatch(text)
    if match is None:
        raise UserError(
            f"neuron mapping has {text!r}; write $L:<layer>$H:<head>$[<a>:<b>], such as $L:6$H:[0:12]$[0:64]"
        )
    layer, head, start, stop = match.groups()
    if head is None:
        return tuple(Site(index) for index in _indices(layer, text))
    if int(start) >= int(stop):
        raise UserError(f"neuron mapping has {text!r} with an empty slice [{start}:{stop}]; a slice is half-open")
    pairs = product(_indices(layer, text), _indices(head, text))
    return tuple(Site(layer_index, head_index, int(start), int(stop)) for layer_index, head_index in pairs)


def _indices(field: str, text: str) -> range:
    if not field.startswith("["):
        return range(int(field), int(field) + 1)
    first, last = (int(bound) for bound in field[1:-1].split(":"))
    if first >= last:
        raise UserError(f"neuron mapping has {text!r} with an empty range {field}; a range is half-open")
    return range(first, last)


def _preset(*pairs: tuple[str, str]) -> dict[str, Any]:
    return {_GROUPS_KEY: [{_TEACHER_KEY: [f"$L:{t}"], _STUDENT_KEY: [f"$L:{s}"]} for t, s in pairs]}


PRESETS: dict[str, dict[str, Any]] = {
    "middle_3": _preset(("6", "1")),
    "middle_6": _preset(("6", "3")),
    "middle_9": _preset(("6", "4")),
    "late_3": _preset(("9", "0"), ("10", "1")),
    "late_6": _preset(("9", "3"), ("10", "4")),
    "full_3": _preset(("[0:4]", "0"), ("[4:8]", "1"), ("[8:12]", "2")),
    "full_6": _preset(*((f"[{2 * s}:{2 * s + 2}]", str(s)) for s in range(6))),
    "full_9": _preset(
        *((f"[{2 * s}:{2 * s + 2}]", str(s)) for s in range(3)), *((str(s + 3), str(s)) for s in range(3, 9))
    ),
}
"""The published mappings of a 12-layer teacher to 3, 6 and 9 layers (single_middle, multiple_single_middle_late,
multiple_single_multilayer), written for whole vectors of any width."""


def full_mapping(*, teacher_layers: int, student_layers: int) -> Mapping:
    """One group for each student block i, with the teacher's blocks i * k to i * k + k - 1, whole vectors of them.

    k is the quotient of the depths, rounded down; the teacher's last blocks are in no group where it leaves a rest.
    Raises ValueError for a student that is deeper than its teacher. Source: Causal-Distill-XXS.
    """
    size = teacher_layers // student_layers
    if size == 0:
        raise UserError(
            f"mapping is full, but the student has {student_layers} blocks and the teacher {teacher_layers}; "
            "give a .nm file or another student"
        )
    blocks = [tuple(Site(layer) for layer in range(size * i, size * i + size)) for i in range(student_layers)]
    return Mapping(tuple(Group((of_teacher,), ((Site(i),),)) for i, of_teacher in enumerate(blocks)))


def resolve_mapping(value: str | MappingType[str, Any], *, generated: Sequence[str] = ()) -> str | dict[str, Any]:
    """A name as it is, the content of a ``.nm`` file, or inline content as it is; parses none of it.

    Names are those of presets and of mappings that the caller generates. Raises ValueError when one is neither a
    name nor a file of JSON.
    """
    if not isinstance(value, str):
        return dict(value)
    if value in PRESETS or value in generated:
        return value
    path = Path(value)
    if not path.is_file():
        choices = sorted([*generated, *PRESETS])
        raise UserError(discovery.unknown_choice("mapping", value, choices) + ", or the path of a .nm file")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"mapping {value!r} is not a JSON file: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"mapping {value!r} is not a JSON object; it needs the key {_GROUPS_KEY}")
    return content


def load_mapping(name_or_path: str | MappingType[str, Any]) -> Mapping:
    """The mapping of a preset's name, the path of a ``.nm`` file, or such a file's content.

    Raises ValueError naming what is wrong.
    """
    resolved = resolve_mapping(name_or_path)
    content = PRESETS[resolved] if isinstance(resolved, str) else resolved
    if set(content) != {_GROUPS_KEY}:
        raise UserError(f"neuron mapping has keys {sorted(content)}; it needs exactly {_GROUPS_KEY}")
    groups = content[_GROUPS_KEY]
    if not isinstance(groups, Sequence) or not groups:
        raise UserError(f"{_GROUPS_KEY} is {groups!r}; it needs a list with at least one group")
    return Mapping(tuple(_group(group) for group in groups))


def _group(group: Any) -> Group:
    if not isinstance(group, MappingType) or set(group) != {_TEACHER_KEY, _STUDENT_KEY}:
        raise UserError(f"a group of the neuron mapping is {group!r}; it needs exactly {_TEACHER_KEY}, {_STUDENT_KEY}")
    for key in (_TEACHER_KEY, _STUDENT_KEY):
        if isinstance(group[key], str) or not group[key]:
            raise UserError(f"{key} is {group[key]!r}; it needs a list with at least one variable")
    teacher, student = (tuple(parse_variable(str(text)) for text in group[key]) for key in (_TEACHER_KEY, _STUDENT_KEY))
    return Group(teacher, student)


def draw(mapping: Mapping, seed: int, *keys: int) -> tuple[Variable, Variable]:
    """The teacher's and the student's sites that belong to ``keys``, such as an optimizer step; equal on every rank.

    A group is drawn uniformly, then a teacher and a student alternative of it, independently of each other.
    """
    group = mapping.groups[_index("interchange_group", seed, keys, len(mapping.groups))]
    teacher = group.teacher[_index("interchange_teacher", seed, keys, len(group.teacher))]
    student = group.student[_index("interchange_student", seed, keys, len(group.student))]
    return teacher, student


def _index(stream: str, seed: int, keys: tuple[int, ...], size: int) -> int:
    return int(draws.integers(stream, seed, *keys, high=size))


def columns_by_layer(sites: Variable, *, num_heads: int, hidden_size: int) -> dict[int, tuple[slice, ...]]:
    """Column slices of each layer, layers ascending, slices ascending and merged where they touch or overlap.

    Head h covers the columns [h * d, (h + 1) * d) with d = hidden_size / num_heads.
    """
    head_size = hidden_size // num_heads
    merged: dict[int, list[slice]] = {}
    bounds = sorted((site.layer, *_bounds(site, head_size, hidden_size)) for site in sites)
    for layer, start, stop in bounds:
        slices = merged.setdefault(layer, [])
        if slices and start <= slices[-1].stop:
            slices[-1] = slice(slices[-1].start, max(stop, slices[-1].stop))
        else:
            slices.append(slice(start, stop))
    return {layer: tuple(slices) for layer, slices in merged.items()}


def _bounds(site: Site, head_size: int, hidden_size: int) -> tuple[int, int]:
    if site.head is None:
        return 0, hidden_size
    return site.head * head_size + site.start, site.head * head_size + site.stop


def check_variables(
    variables: Sequence[Variable], *, owner: str, num_layers: int, num_heads: int, hidden_size: int
) -> None:
    """Refuse sites that a model does not have; ``owner`` names it in the message.

    Raises ValueError for the first layer, head or dimension out of range.
    """
    head_size = hidden_size // num_heads
    for site in (site for variable in variables for site in variable):
        if site.layer >= num_layers:
            raise UserError(
                f"mapping names {owner} layer {site.layer}, but it has layers 0..{num_layers - 1}; change it"
            )
        if site.head is not None and site.head >= num_heads:
            raise UserError(f"mapping names {owner} head {site.head}, but it has heads 0..{num_heads - 1}; change it")
        if site.head is not None and site.stop > head_size:
            raise UserError(
                f"mapping names {owner} dimensions [{site.start}:{site.stop}] of a head, "
                f"but its heads have {head_size}; change it"
            )
