"""What a key of a job or of a search space is: its type, what it may be, its default and what it means."""

import dataclasses
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticUndefined

from raydistill import discovery
from raydistill.config.named import Named
from raydistill.config.schema import alternatives
from raydistill.options import options_of
from raydistill.user_error import UserError

_PROBES: dict[Any, tuple[Any, ...]] = {str: ("?",), int: (-(10**9), 10**9), float: (-1e9, 1e9)}
"""Values that options refuse, where they refuse any, with what they take instead."""

_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "min_length": "length at least"}


@dataclass(frozen=True)
class Key:
    """One key."""

    name: str
    kind: str
    """Its type, as it is written in Python."""
    meaning: str
    default: str = ""
    """Empty for a key that has none."""
    limits: tuple[str, ...] = ()
    """What it may be, beside its type."""
    keys: tuple["Key", ...] = ()
    """Those below it."""

    @property
    def line(self) -> str:
        """Name, type and default."""
        return f"{self.name}: {self.kind}{f' = {self.default}' if self.default else ', no default'}"

    @property
    def lines(self) -> list[str]:
        """All that there is to say of it."""
        meaning = [f"  {line}" for line in self.meaning.splitlines()]
        return [self.line, *(f"  {limit}" for limit in self.limits), *meaning, *(f"  {key.line}" for key in self.keys)]


def explained(annotation: Any, path: Sequence[str], value: Any = None) -> Key | None:
    """The key that a path leads to below a type; None where there is none.

    ``value`` is what a job writes there, which tells what a section with a name picks; without one the name is a part
    of the path: ``method.kd.temperature``.
    """
    for kind in alternatives(annotation):
        found = _explained(kind, list(path), value)
        if found is not None:
            return found
    return None


def _explained(kind: Any, path: list[str], value: Any) -> Key | None:
    if isinstance(kind, type) and issubclass(kind, Named):
        name = value.get("name") if isinstance(value, Mapping) else value
        if path[0] in discovery.names(kind.PACKAGE) and len(path) > 1:
            name, path = path[0], path[1:]
        if name not in discovery.names(kind.PACKAGE):
            return None
        return _explained(kind.config_type(str(name)), path, value)
    first, rest = path[0], path[1:]
    inner = value.get(first) if isinstance(value, Mapping) else None
    if get_origin(kind) in (list, tuple) and first.isdecimal() and rest:
        items = value if isinstance(value, list) else []
        return explained(get_args(kind)[0], rest, items[int(first)] if int(first) < len(items) else None)
    if get_origin(kind) is dict and rest:
        return explained(get_args(kind)[1], rest, inner)
    for key in keys_of(kind):
        if key.name == first:
            below = get_type_hints(kind, include_extras=True)[first]
            return explained(below, rest, inner) if rest else _with_keys(key, below, inner)
    return None


def keys_of(kind: Any) -> list[Key]:
    """The keys of a section or of a module's options, in their order; none of anything else."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [_of_field(name, field) for name, field in kind.model_fields.items()]
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind, include_extras=True)
        parts = ((name, declared.partition(" = ")[2], meaning) for name, declared, meaning in options_of(kind))
        return [
            Key(name, _type(hints[name]), meaning, default, tuple(dict.fromkeys(_refusals(kind, name))))
            for name, default, meaning in parts
        ]
    return []


def _with_keys(key: Key, annotation: Any, value: Any) -> Key:
    """The key with what may stand there: modules by name, or the keys below it."""
    limits, below = list(key.limits), []
    for kind in alternatives(annotation):
        if isinstance(kind, type) and issubclass(kind, Named):
            limits.append(f"name: {', '.join(discovery.names(kind.PACKAGE))}")
            name = value.get("name") if isinstance(value, Mapping) else value
            if name in discovery.names(kind.PACKAGE):
                below += keys_of(kind.config_type(str(name)))
        else:
            below += keys_of(kind)
    return dataclasses.replace(key, limits=tuple(limits), keys=tuple(below))


def _of_field(name: str, field: Any) -> Key:
    default = field.get_default(call_default_factory=True)
    shown = "" if default is PydanticUndefined else _text(default)
    limits = (
        f"{words} {getattr(bound, sign)}"
        for bound in field.metadata
        for sign, words in _BOUNDS.items()
        if getattr(bound, sign, None) is not None
    )
    return Key(name, _type(field.annotation), field.description or "", shown, tuple(limits))


def _text(value: Any) -> str:
    if isinstance(value, Named):
        return str(value.dump())
    return str(value.model_dump(mode="json")) if isinstance(value, BaseModel) else repr(value)


def _type(annotation: Any) -> str:
    """A type as it is written in Python, literals as they are, without what validates it."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(inner[0])
    if origin in (Union, types.UnionType):
        return " | ".join(map(_type, inner))
    if origin is Literal:
        return " | ".join(map(repr, inner))
    if origin is not None:
        return f"{origin.__name__}[{', '.join(map(_type, inner))}]"
    if annotation in (None, type(None), ...):
        return "..." if annotation is ... else "None"
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", getattr(annotation, "__name__", None) or str(annotation))


def _refusals(config_type: type, name: str) -> Iterator[str]:
    """What an option may be, in the words in which it refuses what it may not be."""
    hint = get_type_hints(config_type).get(name)
    for kind in alternatives(hint):
        for probe in _PROBES.get(kind, ()):
            try:
                config_type(**{name: probe})
            except (UserError, ValidationError) as error:
                subject, _, remedy = str(error).partition("; ")
                if subject.startswith(f"{name} is {probe!r}"):
                    yield re.sub("^[Cc]hoices: ", "one of: ", remedy)
            except TypeError:
                # Other options have no default.
                return
