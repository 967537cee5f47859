"""How a figure is called and written; a figure that is not known here keeps its own name."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """Heading and number format of one figure."""

    heading: str
    text: Callable[[float], str]
    unit: str = ""
    """Shown on a picture's axis."""
    is_share: bool = False
    """Between 0 and 1, written as a percentage."""
    is_count: bool = False
    """A property of the model or the data, whose zero spread says nothing."""
    own_spread: str = ""
    """The figure that is the spread of each run's own measurements, which tables have in place of that of runs."""


_FIRST = {
    "loss": Column("validation loss", lambda value: f"{value:.4f}", unit="nats"),
    "perplexity": Column("perplexity", lambda value: f"{value:,.1f}"),
    "accuracy": Column("accuracy", lambda value: f"{value:.1%}", is_share=True),
    "f1": Column("F1", lambda value: f"{value:.1%}", is_share=True),
    "macro_f1": Column("macro F1", lambda value: f"{value:.1%}", is_share=True),
    "exact_match": Column("exact match", lambda value: f"{value:.1%}", is_share=True),
}
_LAST = {
    "tokens": Column("tokens", lambda value: f"{value:,.0f}", is_count=True),
    "rows": Column("rows", lambda value: f"{value:,.0f}", is_count=True),
    "parameters": Column("parameters", lambda value: f"{value:,.0f}", is_count=True),
    "size_mb": Column("MB", lambda value: significant(value, 4), is_count=True),
    "latency_ms": Column("ms of one row", lambda value: significant(value, 3), own_spread="latency_spread_ms"),
    "batch_latency_ms": Column(
        "ms a row in batches", lambda value: significant(value, 3), own_spread="batch_latency_spread_ms"
    ),
}


def column(figure: str) -> Column:
    """Heading and format of a figure; of an unknown one its name and four significant digits."""
    return _FIRST.get(figure) or _LAST.get(figure) or Column(figure, lambda value: significant(value, 4))


def in_order(figures: Iterable[str]) -> list[str]:
    """Distinct figures: known results first, then the others as they came, then sizes."""
    distinct = dict.fromkeys(figures)
    others = [name for name in distinct if name not in _FIRST and name not in _LAST]
    return [*(name for name in _FIRST if name in distinct), *others, *(name for name in _LAST if name in distinct)]


def significant(value: float, digits: int) -> str:
    """A number with so many significant digits; whole thousands are written out, with commas."""
    text = f"{value:.{digits}g}"
    return f"{float(text):,.0f}" if 10 ** (digits - 1) <= abs(value) < 1e15 else text
