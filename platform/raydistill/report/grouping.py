"""Runs that differ in nothing but their seed belong together, under a short name."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from raydistill.config.matrix import SEED, Assignment


def grouped(runs: Sequence[tuple[str, Assignment]]) -> list[tuple[str, list[int]]]:
    """Positions of the runs of each group with the group's name, in order of first appearance.

    A run is a name and the matrix keys that made it. Names look like ``student`` or ``student (temperature=2)``:
    of a dotted key, the shortest ending is shown that no other key has.
    """
    positions: dict[str, list[int]] = {}
    for position, (name, assignment) in enumerate(runs):
        positions.setdefault(json.dumps([name, without_seed(assignment)], sort_keys=True), []).append(position)
    short = short_keys(key for _, assignment in runs for key in without_seed(assignment))
    return [(_label(*runs[members[0]], short), members) for members in positions.values()]


def without_seed(assignment: Assignment) -> dict[str, Any]:
    """The matrix keys that tell groups apart."""
    return {key: value for key, value in assignment.items() if key != SEED}


def short_keys(keys: Iterable[str]) -> dict[str, str]:
    """For each dotted key its shortest ending, cut at a dot, that no other key has."""
    distinct = list(dict.fromkeys(keys))
    return {key: next(end for end in _endings(key) if _is_unique(end, key, distinct)) for key in distinct}


def value_text(value: Any) -> str:
    """A matrix value as YAML's users write it: words as they are, the rest as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def _label(name: str, assignment: Assignment, short: Mapping[str, str]) -> str:
    values = [f"{short[key]}={value_text(value)}" for key, value in without_seed(assignment).items()]
    return f"{name} ({', '.join(values)})" if values else name


def _endings(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[start:]) for start in reversed(range(len(parts)))]


def _is_unique(ending: str, key: str, keys: Collection[str]) -> bool:
    # The whole key always names itself, even where a longer key ends like it.
    return ending == key or not any(other != key and ending in _endings(other) for other in keys)
