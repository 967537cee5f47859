"""Some cases of a full product, which together have all that any of them has."""

from collections.abc import Collection, Hashable, Mapping
from itertools import combinations
from typing import Any

import pytest


def representatives(parts_of: Mapping[str, Collection[Hashable]]) -> set[str]:
    """Names of few cases that together have every part of any case: again and again the one with most that is new."""
    missing = {part for parts in parts_of.values() for part in parts}
    chosen = set()
    while missing:
        best = max(parts_of, key=lambda name: len(missing & set(parts_of[name])))
        chosen.add(best)
        missing -= set(parts_of[best])
    return chosen


def few_of(parts_of: Mapping[str, Collection[Hashable]]) -> list[Any]:
    """All names as parameters of a test, all but the representatives left to the full product."""
    chosen = representatives(parts_of)
    return [pytest.param(name, id=name, marks=() if name in chosen else pytest.mark.exhaustive) for name in parts_of]


def pairs(**values: Hashable) -> list[Hashable]:
    """Each two of a case's values, by name: what a case has where two options could meet badly."""
    return list(combinations(sorted(values.items()), 2))
