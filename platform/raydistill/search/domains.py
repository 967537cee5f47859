"""What values a searched key may have: choices, grids and ranges, as a space file writes them."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raydistill.discovery import unknown_choice

_EXAMPLE = "write a list of choices, or a range such as {uniform: [1, 8]}; a fixed value belongs in overrides"


@dataclass(frozen=True)
class Choice:
    """One of several values of any form, whole sections such as a ``method`` with its options included."""

    values: tuple[Any, ...]

    def sample(self, rng: random.Random) -> Any:
        """One of the values, each as likely."""
        return rng.choice(self.values)

    def dump(self) -> dict[str, Any]:
        """As a space file writes it."""
        return {"choice": list(self.values)}


@dataclass(frozen=True)
class Grid:
    """Values that are all tried, with all combinations of the other keys; for searcher ``grid``."""

    values: tuple[Any, ...]

    def sample(self, rng: random.Random) -> Any:
        """One of the values, each as likely."""
        return rng.choice(self.values)

    def dump(self) -> dict[str, Any]:
        """As a space file writes it."""
        return {"grid": list(self.values)}


@dataclass(frozen=True)
class Uniform:
    """A number between ``low`` and ``high``."""

    low: float
    high: float

    def sample(self, rng: random.Random) -> float:
        """A number, each as likely."""
        return rng.uniform(self.low, self.high)

    def dump(self) -> dict[str, Any]:
        """As a space file writes it."""
        return {"uniform": [self.low, self.high]}


@dataclass(frozen=True)
class LogUniform:
    """A number between ``low`` and ``high``, both above 0, whose logarithm is uniform."""

    low: float
    high: float

    def sample(self, rng: random.Random) -> float:
        """A number, each order of magnitude as likely."""
        # Rounding must not lead out of the range.
        drawn = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return min(max(drawn, self.low), self.high)

    def dump(self) -> dict[str, Any]:
        """As a space file writes it."""
        return {"loguniform": [self.low, self.high]}


@dataclass(frozen=True)
class QUniform:
    """A number between ``low`` and ``high``, both multiples of ``step``, that is a multiple of it."""

    low: float
    high: float
    step: float

    def sample(self, rng: random.Random) -> float:
        """A multiple of the step, each as likely."""
        return self.at(rng.randint(0, self.num_steps))

    @property
    def num_steps(self) -> int:
        """How many steps it is from ``low`` to ``high``."""
        return round((self.high - self.low) / self.step)

    def at(self, number: int) -> float:
        """The value after so many steps from ``low``, without the last digits that sums of steps would leave."""
        return round(self.low + number * self.step, 12)

    def dump(self) -> dict[str, Any]:
        """As a space file writes it."""
        return {"quniform": [self.low, self.high, self.step]}


@dataclass(frozen=True)
class RandInt:
    """A whole number from ``low`` to ``high``, both included."""

    low: int
    high: int

    def sample(self, rng: random.Random) -> int:
        """A whole number, each as likely."""
        return rng.randint(self.low, self.high)

    def dump(self) -> dict[str, Any]:
        """As a space file writes it."""
        return {"randint": [self.low, self.high]}


Domain = Choice | Grid | Uniform | LogUniform | QUniform | RandInt
"""What a searched key may be."""

_FORMS = {
    "choice": "[value, value, ...]",
    "grid": "[value, value, ...]",
    "uniform": "[low, high]",
    "loguniform": "[low, high]",
    "quniform": "[low, high, step]",
    "randint": "[low, high]",
}


def parse(value: Any) -> Domain:
    """The domain that plain data of a space file means: a list is a choice, a mapping of one key names the kind.

    Raises ValueError, one line, for what is none, an empty choice or a range that is none.
    """
    if isinstance(value, Domain):
        return value
    if isinstance(value, list):
        return Choice(_values("choice", value))
    if not isinstance(value, Mapping) or len(value) != 1:
        raise ValueError(_EXAMPLE)
    kind, arguments = next(iter(value.items()))
    if kind not in _FORMS:
        raise ValueError(unknown_choice("the domain", kind, list(_FORMS)))
    if not isinstance(arguments, list):
        raise ValueError(f"{kind} is {arguments!r}; write {{{kind}: {_FORMS[kind]}}}")
    if kind in ("choice", "grid"):
        values = _values(kind, arguments)
        return Choice(values) if kind == "choice" else Grid(values)
    return _range(kind, arguments)


def is_number(value: object) -> bool:
    """Whether a value is a number, which a truth value is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _values(kind: str, values: Sequence[Any]) -> tuple[Any, ...]:
    if not values:
        raise ValueError(f"{kind} is empty; list the values")
    for position, value in enumerate(values):
        # As JSON they are different, for Python 1 equals true and 1.0.
        if any(value == other and type(value) is type(other) for other in values[:position]):
            raise ValueError(f"{kind} has {value!r} twice; remove one")
    return tuple(values)


def _range(kind: str, arguments: list[Any]) -> Domain:
    written = f"{kind} is {arguments!r}"
    if len(arguments) != _FORMS[kind].count(",") + 1 or not all(
        is_number(one) and math.isfinite(one) for one in arguments
    ):
        raise ValueError(f"{written}; write {{{kind}: {_FORMS[kind]}}} with numbers")
    low, high = arguments[:2]
    if low >= high:
        raise ValueError(f"{written}, where low is not below high; exchange them, or fix the value in overrides")
    if kind == "uniform":
        return Uniform(float(low), float(high))
    if kind == "loguniform":
        if low <= 0:
            raise ValueError(f"{written}; a logarithm needs a low above 0")
        return LogUniform(float(low), float(high))
    if kind == "randint":
        if not all(float(one).is_integer() for one in arguments):
            raise ValueError(f"{written}; write whole numbers, or use quniform")
        return RandInt(int(low), int(high))
    return _steps(written, float(low), float(high), float(arguments[2]))


def _steps(written: str, low: float, high: float, step: float) -> QUniform:
    if step <= 0:
        raise ValueError(f"{written}; the step must be above 0")
    for name, bound in (("low", low), ("high", high)):
        if not math.isclose(bound / step, round(bound / step), abs_tol=1e-9):
            raise ValueError(f"{written}, where {name} is no multiple of the step; move it")
    return QUniform(low, high, step)
