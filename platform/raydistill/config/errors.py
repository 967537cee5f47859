"""What is wrong with a configuration, one line a mistake: the key, its value and the remedy."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError
from pydantic_core.core_schema import ErrorType

from raydistill.credentials import starred
from raydistill.discovery import unknown_choice
from raydistill.user_error import UserError

_EXTRA_KEY = ("extra_forbidden", "unexpected_keyword_argument")
_STANDARD_TYPES = frozenset(get_args(ErrorType))
_LONGEST_VALUE = 60


def error_lines(error: ValueError, *, source: str = "") -> list[str]:
    """One line for each mistake in a pydantic ValidationError, a UserError or any other ValueError.

    ``source`` (a file's name) starts each line when it is given.
    """
    prefix = f"{source}: " if source else ""
    if isinstance(error, UserError):
        lines = error.lines
    elif isinstance(error, ValidationError):
        lines = [_line(details) for details in error.errors(include_url=False)]
    else:
        lines = [" ".join(str(error).split())]
    return [prefix + line for line in lines]


def with_choices(error: ValidationError, choices: Iterable[str], *, owner: str = "") -> ValidationError:
    """The same error, with every unknown key of the validated object itself telling the keys that there are.

    ``owner`` names what the keys are options of, such as ``method causal``.
    """
    known = sorted(choices)
    return ValidationError.from_exception_data(
        error.title, [_with_choices(details, known, owner) for details in error.errors(include_url=False)]
    )


def unknown_key(key: str, choices: Iterable[str], *, owner: str = "") -> str:
    """What follows an unknown key in its line: that it is none, the closest one, the choices."""
    known = sorted(choices)
    _, _, hint = unknown_choice("key", key, known).partition("; ")
    return f"is not an option{f' of {owner}' if owner else ''}; {hint if known else 'there are no options'}"


def choice_error(title: str, field: str, value: Any, choices: list[str]) -> ValidationError:
    """A ValidationError for ``field`` with a value that is none of ``choices``."""
    _, _, hint = unknown_choice(field, value, choices).partition("; ")
    problem = PydanticCustomError("unknown_choice", "{hint}", {"hint": hint})
    return ValidationError.from_exception_data(title, [InitErrorDetails(type=problem, loc=(field,), input=value)])


def _with_choices(details: Any, known: list[str], owner: str) -> InitErrorDetails:
    kind, loc = details["type"], details["loc"]
    if kind in _EXTRA_KEY and len(loc) == 1:
        hint = unknown_key(str(loc[0]), known, owner=owner)
        return InitErrorDetails(type=PydanticCustomError("unknown_key", "{hint}", {"hint": hint}), loc=loc, input=None)
    context = details.get("ctx", {})
    problem = kind if kind in _STANDARD_TYPES else PydanticCustomError(kind, details["msg"], context)
    return InitErrorDetails(type=problem, loc=loc, input=details["input"], ctx=context)


def _line(details: Any) -> str:
    # Pydantic's word for a mapping's key, and tags of unions, are no keys of a user.
    key = ".".join(part for part in map(str, details["loc"]) if not part.startswith("["))
    kind, value, message = details["type"], details["input"], details["msg"]
    if kind == "unknown_key":
        return f"{key} {message}"
    if kind in _EXTRA_KEY:
        return f"{key} is not an option; remove it"
    if kind == "missing":
        return f"{key} is missing; add it"
    if kind == "literal_error":
        return unknown_choice(key, value, re.findall(r"'([^']*)'", details["ctx"]["expected"]))
    if kind in ("value_error", "assertion_error"):
        return _refusal(key, value, str(details["ctx"]["error"]))
    remedy = re.sub(r"^Input should", "it should", message)
    return f"{key or 'this'} is {_shown(value)}; {remedy}"


def _refusal(key: str, value: Any, text: str) -> str:
    """A line for a ValueError raised by a validator: its own words, led by the dotted key."""
    text = " ".join(text.split())
    if not key:
        return text
    first_word = re.match(r"\w+", text)
    if isinstance(value, Mapping) and first_word and first_word.group() in value:
        return f"{key}.{text}"
    return f"{key}: {text}" if isinstance(value, Mapping) else f"{key} is {_shown(value)}; {text}"


def _shown(value: Any) -> str:
    text = starred(" ".join(repr(value).split()))
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."
