"""How a raw label is written: a truth value or a number of a file may stand for a name in several ways."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

_WHOLE = re.compile(r"([+-]?\d+)\.0*")
_TRUTH = ("true", "false")


def written_forms(raw: Any) -> Iterator[str]:
    """The texts that a raw label may stand for, the likeliest first.

    A truth value, or its name as Python and spreadsheets write it, is ``true`` or ``false`` too, and a number without a
    fraction, such as 1.0, is that whole number.
    """
    text = str(raw)
    yield text
    if text.lower() in _TRUTH:
        yield text.lower()
    if whole := _WHOLE.fullmatch(text):
        yield str(int(whole[1]))


def nearest(raw: Any, names: Iterable[str]) -> str:
    """The end of a refusal: which name differs from the label only in how it is written; empty where none does."""
    found = next((name for name in names if _plain(name) == _plain(raw)), None)
    return "" if found is None else f"; {found!r} is written in another way, so write the same in both"


def _plain(value: Any) -> str:
    text = str(value).strip().casefold()
    try:
        return repr(float(text))
    except ValueError:
        return text
