"""What values a searched key may have: choices, grids and ranges, as a space file writes them."""

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, ClassVar

from raydistill.discovery import unknown_choice
from raydistill.user_error import UserError

Values = dict[str, Any]
"""Dotted keys of a job, and what a trial gives them."""

_EXAMPLE = "write a list of choices, or a range such as {uniform: [1, 8]}; a fixed value belongs in overrides"
_LISTED = "[value, value, ...]"


@dataclass(frozen=True)
class Choice:
    """One of several values of any form, whole sections such as a ``method`` with its options included."""

    kind: ClassVar[str] = "choice"
    values: tuple[Any, ...]

    def sample(self, rng: random.Random) -> Any:
        """One of the values, each as likely."""
        return rng.choice(self.values)

    def dump(self) -> dict[str, Any]:
        """As a space file writes it."""
        return {self.kind: list(self.values)}


@dataclass(frozen=True)
class Grid(Choice):
    """Values that are all tried, with all combinations of the other keys; for searcher ``grid``."""

    kind: ClassVar[str] = "grid"


@dataclass(frozen=True)
class Range(ABC):
    """Numbers from ``low`` to ``high``, both included."""

    kind: ClassVar[str]
    form: ClassVar[str] = "[low, high]"
    low: float
    high: float

    @abstractmethod
    def sample(self, rng: random.Random) -> float:
        """A number of the range."""

    def dump(self) -> dict[str, Any]:
        """As a space file writes it."""
        return {self.kind: list(astuple(self))}


@dataclass(frozen=True)
class Uniform(Range):
    """Numbers of which each is as likely."""

    kind: ClassVar[str] = "uniform"

    def sample(self, rng: random.Random) -> float:
        """A number, each as likely."""
        return rng.uniform(self.low, self.high)


@dataclass(frozen=True)
class LogUniform(Range):
    """Numbers above 0 whose logarithm is uniform."""

    kind: ClassVar[str] = "loguniform"

    def sample(self, rng: random.Random) -> float:
        """A number, each order of magnitude as likely."""
        # Rounding must not lead out of the range.
        drawn = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return min(max(drawn, self.low), self.high)


@dataclass(frozen=True)
class QUniform(Range):
    """Multiples of ``step``, which ``low`` and ``high`` are too."""

    kind: ClassVar[str] = "quniform"
    form: ClassVar[str] = "[low, high, step]"
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


@dataclass(frozen=True)
class RandInt(Range):
    """Whole numbers."""

    kind: ClassVar[str] = "randint"
    low: int
    high: int

    def sample(self, rng: random.Random) -> int:
        """A whole number, each as likely."""
        return rng.randint(self.low, self.high)


Domain = Choice | Range
"""What a searched key may be."""

_CHOICES: dict[str, type[Choice]] = {kind.kind: kind for kind in (Choice, Grid)}
_RANGES: dict[str, type[Range]] = {kind.kind: kind for kind in (Uniform, LogUniform, QUniform, RandInt)}


def parse(value: Any) -> Domain:
    """The domain that plain data of a space file means: a list is a choice, a mapping of one key names the kind.

    Raises ValueError, one line, for what is none, an empty choice or a range that is none.
    """
    if isinstance(value, Domain):
        return value
    if isinstance(value, list):
        return Choice(_listed("choice", value))
    if not isinstance(value, Mapping) or len(value) != 1:
        raise UserError(_EXAMPLE)
    kind, arguments = next(iter(value.items()))
    if kind not in _CHOICES and kind not in _RANGES:
        raise UserError(unknown_choice("the domain", kind, [*_CHOICES, *_RANGES]))
    if not isinstance(arguments, list):
        form = _RANGES[kind].form if kind in _RANGES else _LISTED
        raise UserError(f"{kind} is {arguments!r}; write {{{kind}: {form}}}")
    return _CHOICES[kind](_listed(kind, arguments)) if kind in _CHOICES else _range(_RANGES[kind], arguments)


def is_number(value: object) -> bool:
    """Whether a value is a number, which a truth value is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _listed(kind: str, values: Sequence[Any]) -> tuple[Any, ...]:
    if not values:
        raise UserError(f"{kind} is empty; list the values")
    for position, value in enumerate(values):
        # As JSON they are different, for Python 1 equals true and 1.0.
        if any(value == other and type(value) is type(other) for other in values[:position]):
            raise UserError(f"{kind} has {value!r} twice; remove one")
    return tuple(values)


def _range(kind: type[Range], arguments: list[Any]) -> Range:
    written = f"{kind.kind} is {arguments!r}"
    if len(arguments) != kind.form.count(",") + 1 or not all(
        is_number(one) and math.isfinite(one) for one in arguments
    ):
        raise UserError(f"{written}; write {{{kind.kind}: {kind.form}}} with numbers")
    low, high = arguments[:2]
    if low >= high:
        raise UserError(f"{written}, where low is not below high; exchange them, or fix the value in overrides")
    if kind is LogUniform and low <= 0:
        raise UserError(f"{written}; a logarithm needs a low above 0")
    if kind is RandInt and not all(float(one).is_integer() for one in arguments):
        raise UserError(f"{written}; write whole numbers, or use quniform")
    if kind is QUniform:
        _check_steps(written, *arguments)
    return kind(*map(int if kind is RandInt else float, arguments))


def _check_steps(written: str, low: float, high: float, step: float) -> None:
    if step <= 0:
        raise UserError(f"{written}; the step must be above 0")
    for name, bound in (("low", low), ("high", high)):
        if not math.isclose(bound / step, round(bound / step), abs_tol=1e-9):
            raise UserError(f"{written}, where {name} is not a multiple of the step; move it")
