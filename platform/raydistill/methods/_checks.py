"""Checks of options that several methods have; each raises ValueError naming key, value and what is allowed."""

from collections.abc import Collection
from typing import Any


def check_weight(key: str, value: float) -> None:
    """Refuse a weight that is negative or no number."""
    if not 0 <= value < float("inf"):
        raise ValueError(f"{key} is {value}; a weight must be a number that is not negative")


def check_positive(key: str, value: float) -> None:
    """Refuse a temperature, or a rate, that is not positive."""
    if not 0 < value < float("inf"):
        raise ValueError(f"{key} is {value}; it must be positive and finite")


def check_choice(key: str, value: Any, choices: Collection[Any]) -> None:
    """Refuse a value that is none of the choices."""
    if value not in choices:
        raise ValueError(f"{key} is {value!r}; choices: {', '.join(map(str, choices))}")


def check_interchange(proportion: float, max_tokens: int | None) -> None:
    """Refuse a share of positions, and a limit of them, under which none is interchanged."""
    if not 0 < proportion <= 1:
        raise ValueError(f"interchange_proportion is {proportion}; it must be in (0, 1]")
    if max_tokens is not None and max_tokens < 1:
        raise ValueError(f"max_tokens is {max_tokens}; it must be at least 1, or null for no limit")
