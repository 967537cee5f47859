"""Students beside the same student without distillation and their teacher: what is known of each, and its table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raydistill.report.columns import Column, column
from raydistill.report.resampling import Gain, Interval
from raydistill.report.tables import Cell, Statistic

_NOTE = (
    "In brackets the 95 % interval of a bootstrap over seeds and rows, paired in both; p is that of no difference from "
    "{alone}, of each model by itself. Gap closed: its gain as a share of that of {teacher}. n is the number of seeds; "
    "seconds are those of optimizer steps, without evaluations and without asking teachers whose answers were stored."
)


@dataclass(frozen=True)
class Contender:
    """A model of a contrast; one that no training of the contrast made has no steps, tokens and seconds."""

    name: str
    num_seeds: int
    gain: Gain
    steps: Statistic | None = None
    tokens: Statistic | None = None
    seconds: Statistic | None = None

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "Contender":
        """From plain data, as ``dataclasses.asdict`` makes them."""
        gain: dict[str, Any] = {
            name: Interval(**value) if isinstance(value, dict) else value for name, value in data["gain"].items()
        }
        costs = {name: Statistic(**data[name]) for name in ("steps", "tokens", "seconds") if data[name] is not None}
        return cls(data["name"], data["num_seeds"], Gain(**gain), **costs)


@dataclass(frozen=True)
class Contrast:
    """All models by one metric, the teacher first, then the student without distillation."""

    metric: str
    teacher: str
    alone: str
    contenders: Sequence[Contender]

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "Contrast":
        """From plain data, as ``dataclasses.asdict`` makes them."""
        return cls(**{**data, "contenders": [Contender.of(one) for one in data["contenders"]]})

    @property
    def note(self) -> str:
        """What one has to know to read it."""
        return _NOTE.format(alone=self.alone, teacher=self.teacher)

    def rows(self) -> tuple[list[str], list[list[Cell]]]:
        """Header and cells of its table."""
        style = column(self.metric)
        unit = " in points" if style.is_share else ""
        header = ["model", "n", style.heading, f"gain on {self.alone}{unit}", "p", "gap closed", "steps", "tokens", "s"]
        return header, [self._row(one, style) for one in self.contenders]

    def _row(self, one: Contender, style: Column) -> list[Cell]:
        is_alone = one.name == self.alone
        costs = (one.steps, one.tokens, one.seconds)
        return [
            Cell(one.name),
            Cell(str(one.num_seeds), one.num_seeds),
            _cell(one.gain.figure, style.text),
            Cell("") if is_alone else _cell(one.gain.difference, points if style.is_share else signed),
            Cell("") if is_alone else Cell(_p_text(one.gain.p), one.gain.p),
            Cell("") if is_alone or one.name == self.teacher else _cell(one.gain.gap_closed, percent),
            *(Cell("") if cost is None else Cell(f"{cost.mean:,.0f}", cost.mean) for cost in costs),
        ]


def points(value: float) -> str:
    """A difference of shares in points, with its sign."""
    return f"{100 * value:+.1f}"


def signed(value: float) -> str:
    """A difference with its sign."""
    return f"{value:+.4g}"


def percent(value: float) -> str:
    """A share of a gap, which may be negative or more than the whole."""
    return f"{value:.0%}"


def interval_text(found: Interval, number: Callable[[float], str]) -> str:
    """An estimate with its interval in brackets."""
    return f"{number(found.value)} [{number(found.low)}, {number(found.high)}]"


def _cell(found: Interval | None, number: Callable[[float], str]) -> Cell:
    return Cell("") if found is None else Cell(interval_text(found, number), found.value)


def _p_text(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
