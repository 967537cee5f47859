"""Matrices: one stage, several runs of it that differ in chosen keys."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raydistill import names
from raydistill.config import yaml_text
from raydistill.config.overrides import set_value
from raydistill.user_error import UserError

SEED = "seed"
"""The axis over which tables average; runs that are made from a run with a seed share it."""

MAX_RUNS = 1_000
"""Runs of one stage: each is checked by itself, and each has a folder and a tracked run."""

Label = str | int | float | bool
"""A matrix value as names and tables show it."""
Assignment = Mapping[str, Label]
"""Dotted keys and the label of each one's value, in one run."""


@dataclass(frozen=True)
class Choice:
    """One value of an axis and its label."""

    label: Label
    value: Any


def axes(matrix: Mapping[str, Any]) -> dict[str, list[Choice]]:
    """Axes by dotted key; nested mappings mean dotted keys (``{method: {temperature: [1, 2]}}``).

    Raises ValueError for an axis that is no list, has no value or a value twice, and for a seed that is no integer.
    """
    found: dict[str, list[Choice]] = {}
    for key, values in matrix.items():
        if not isinstance(key, str):
            raise UserError(f"matrix has the key {key!r}; write dotted keys, such as method.temperature: [1, 2]")
        if isinstance(values, Mapping):
            found |= {f"{key}.{inner}": choices for inner, choices in axes(values).items()}
        elif isinstance(values, Sequence) and not isinstance(values, str) and values:
            _check_number(len(values))
            if key == SEED:
                _check_seeds(values)
            found[key] = [Choice(label, value) for label, value in zip(_labels(key, values), values, strict=True)]
        else:
            raise UserError(f"matrix.{key} is {values!r}; list the values, such as [1, 2, 3]")
    return found


def _check_seeds(values: Sequence[Any]) -> None:
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool):
            raise UserError(f"matrix.{SEED} has {value!r}; list integers, such as [1, 2, 3]")


def _labels(key: str, values: Sequence[Any]) -> list[Label]:
    for position, value in enumerate(values):
        if value in values[:position]:
            raise UserError(f"matrix.{key} has {value!r} twice; remove one")
    labels = [_label(value) for value in values]
    texts = [str(label) for label in labels]
    # Sections of one name, such as one method with two temperatures, are told apart by their place.
    return [
        f"{label}#{position}" if texts.count(text) > 1 else label
        for position, (label, text) in enumerate(zip(labels, texts, strict=True))
    ]


def _label(value: Any) -> Label:
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        value = value.get("name", value.get("checkpoint", "options"))
    if isinstance(value, list | tuple):
        value = "-".join(map(str, value))
    return names.cleaned(str(value), names.LABEL)


def combinations(chosen: Mapping[str, Sequence[Choice]]) -> list[dict[str, Choice]]:
    """Every combination of the axes' values; the last axis changes fastest. Raises UserError for too many."""
    _check_number(math.prod(map(len, chosen.values())))
    return [dict(zip(chosen, values, strict=True)) for values in itertools.product(*chosen.values())]


def _check_number(num_runs: int) -> None:
    if num_runs > MAX_RUNS:
        raise UserError(f"a matrix makes over {MAX_RUNS:,} runs of this stage; list fewer values")


def run_name(stage: str, assignment: Assignment) -> str:
    """``distill[seed=1,method.temperature=2]``, or the stage's own name for an empty assignment."""
    inner = ",".join(f"{key}={label}" for key, label in assignment.items())
    return f"{stage}[{inner}]" if inner else stage


def assigned(raw: Mapping[str, Any], choices: Mapping[str, Choice]) -> dict[str, Any]:
    """A copy of a stage's plain data, without its matrix, with the chosen values written in."""
    result: dict[str, Any] = yaml_text.plain_copy({key: value for key, value in raw.items() if key != "matrix"})
    for key, choice in choices.items():
        set_value(result, key.split("."), yaml_text.plain_copy(choice.value))
    return result


def joined(left: Sequence[Assignment], right: Sequence[Assignment]) -> list[Assignment]:
    """Pairs of assignments that agree on the keys both have, merged; keys of ``left`` come first.

    Raises UserError for too many.
    """
    pairs = (
        {**first, **second}
        for first in left
        for second in right
        if all(first[key] == second[key] for key in first.keys() & second.keys())
    )
    found: list[Assignment] = list(itertools.islice(pairs, MAX_RUNS + 1))
    _check_number(len(found))
    return found
