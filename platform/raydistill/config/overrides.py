"""Dotted keys that vary a configuration: the command line, search trials and matrices all use these."""

import difflib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from raydistill.config import yaml_text
from raydistill.discovery import unknown_choice
from raydistill.user_error import UserError

Accepts = Callable[[str, Sequence[str]], bool]
"""Whether the stage of that name has a key with that path below it."""

_SHORTHANDS = {
    "teacher": "checkpoint",
    "teachers": "checkpoint",
    "model": "checkpoint",
    "checkpoint": "checkpoint",
    "corpus": "corpus",
}
"""Key under which a section's one-word form stands, where it is not ``name``."""


def parse(assignments: Sequence[str]) -> dict[str, Any]:
    """``["a.b=1"]`` to ``{"a.b": 1}``, values read as YAML.

    Raises ValueError for one without ``=``, without a key, or with a value that is no YAML.
    """
    return dict(_parse_one(assignment) for assignment in assignments)


def _parse_one(assignment: str) -> tuple[str, Any]:
    key, equals, text = assignment.partition("=")
    key = key.strip()
    if not equals:
        raise UserError(f"{assignment!r} has no '='; write dotted.key=value, such as training.batch_size=32")
    if not re.fullmatch(r"[^\s.=]+(\.[^\s.=]+)*", key):
        raise UserError(f"{assignment!r} starts with no dotted key; write dotted.key=value")
    return key, yaml_text.parse(text, source=f"the value of {key}")


def apply(
    raw: Mapping[str, Any], overrides: Mapping[str, Any], *, top_level: Collection[str], accepts: Accepts
) -> dict[str, Any]:
    """A copy of a job's plain data with values replaced.

    A key is a path from the top (``stages.distill.seed``), a path from a stage (``distill.method.temperature``) or a
    path inside the one stage that has it (``method.temperature``). ``top_level`` are the keys of a job.
    Raises ValueError for a key that no place or several places could take.
    """
    result: dict[str, Any] = yaml_text.plain_copy(dict(raw))
    for key, value in overrides.items():
        path = locate(result, key, top_level=top_level, accepts=accepts)
        set_value(result, path, yaml_text.plain_copy(value))
    return result


def locate(raw: Mapping[str, Any], key: str, *, top_level: Collection[str], accepts: Accepts) -> list[str]:
    """The full path that a dotted key means in a job's plain data; raises ValueError as ``apply`` does."""
    path = key.split(".")
    stages = raw.get("stages")
    names = [str(name) for name in stages] if isinstance(stages, Mapping) else []
    if path[0] in top_level:
        return path
    if path[0] in names:
        return ["stages", *path]
    takers = [name for name in names if accepts(name, path)]
    if len(takers) == 1:
        return ["stages", takers[0], *path]
    if takers:
        choices = " or ".join(f"{name}.{key}" for name in takers)
        raise UserError(f"{key} is a key of several stages; write {choices}")
    if len(path) > 1:
        raise UserError(_no_place(key, names, accepts))
    raise UserError(unknown_choice("the key", key, sorted({*top_level, *names})) + ", or a key inside one stage")


def _no_place(key: str, names: Sequence[str], accepts: Accepts) -> str:
    section = key.split(".")[0]
    holders = [name for name in names if accepts(name, [section])]
    if holders:
        return f"{key} is a key of none of the stages {', '.join(holders)}; correct what follows {section}"
    close = difflib.get_close_matches(section, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{key} is a key of no stage; {hint}start it with a key of the job or one of its stages: {', '.join(names)}"


def set_value(data: Any, path: Sequence[str], value: Any) -> None:
    """Write ``value`` at ``path`` inside nested mappings and lists of ``data``, which it changes.

    Missing mappings are made, a one-word section (``method: causal``) is written out first, a number picks a list's
    item. Raises ValueError where the path runs into a plain value or past a list's end.
    """
    for depth, part in enumerate(path[:-1]):
        key = _key(data, path, depth)
        inner = data[key] if isinstance(data, list) else data.get(key)
        if inner is None:
            inner = {}
        elif isinstance(inner, str):
            owner = part if not part.isdecimal() else path[depth - 1]
            inner = {_SHORTHANDS.get(owner, "name"): inner}
        data[key] = inner
        data = inner
    data[_key(data, path, len(path) - 1)] = value


def _key(data: Any, path: Sequence[str], depth: int) -> Any:
    """The key or index by which ``path[depth]`` enters ``data``."""
    part, where = path[depth], ".".join(path[:depth])
    if isinstance(data, list):
        if not part.isdecimal() or int(part) >= len(data):
            raise UserError(f"{where}.{part} is not an item of {where}; write a number from 0 to {len(data) - 1}")
        return int(part)
    if not isinstance(data, dict):
        raise UserError(f"{where} is {data!r}, which has no keys; remove .{part} from {'.'.join(path)}")
    return part
