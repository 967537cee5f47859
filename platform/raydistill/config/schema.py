"""Which dotted keys a configuration type has, asked without a value for them."""

import dataclasses
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from raydistill import discovery
from raydistill.config.named import Named


def has_key(annotation: Any, path: Sequence[str], value: Any = None) -> bool:
    """Whether ``path`` leads to a key of ``annotation``, a pydantic model, a dataclass, or a container of them.

    ``value`` is what the file writes there; it tells which method, task or source a named section picks.
    """
    if not path:
        return True
    return any(_has_key(alternative, path, value) for alternative in alternatives(annotation))


def alternatives(annotation: Any) -> Iterator[Any]:
    """The types of a union, or the type itself."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from alternatives(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from alternatives(member)
    else:
        yield annotation


def _has_key(kind: Any, path: Sequence[str], value: Any) -> bool:
    if isinstance(kind, type) and issubclass(kind, Named):
        return _named_has_key(kind, path, value)
    first, rest = path[0], path[1:]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (list, tuple) and first.isdecimal():
        items = value if isinstance(value, Sequence) and not isinstance(value, str) else ()
        item = items[int(first)] if int(first) < len(items) else None
        return has_key(arguments[0] if arguments else Any, rest, item)
    inner = value.get(first) if isinstance(value, Mapping) else None
    if origin is dict:
        return has_key(arguments[1], rest, inner)
    if kind is Any or kind is dict:
        return True
    if isinstance(kind, type) and (issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind)):
        fields = kind.model_fields if issubclass(kind, BaseModel) else kind.__dataclass_fields__
        return first in fields and has_key(get_type_hints(kind, include_extras=True)[first], rest, inner)
    return False


def _named_has_key(kind: type[Named], path: Sequence[str], value: Any) -> bool:
    if list(path) == ["name"]:
        return True
    name = value.get("name") if isinstance(value, Mapping) else value
    if name not in discovery.names(kind.PACKAGE):
        return False
    return has_key(kind.config_type(str(name)), path, value)
