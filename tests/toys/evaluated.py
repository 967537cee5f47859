"""What evaluations will tell, as their plans forecast it."""

from collections.abc import Mapping, Sequence
from typing import Any

from raydistill.evaluation import COSTS
from raydistill.stages._base import Evaluated

ROW = tuple[str, str, Mapping[str, Any]]
"""Name of a model, its reference, and the matrix keys that made one of its runs."""


def evaluated(rows: Sequence[ROW], metrics: Mapping[str, bool]) -> Evaluated:
    """Of each row all metrics, sizes and latencies."""
    directions: dict[str, bool | None] = {**metrics, "rows": None, **dict.fromkeys(COSTS, False)}
    entries = [
        {"model": model, "reference": reference, "assignment": dict(keys), "figures": dict.fromkeys(directions, 0.0)}
        for model, reference, keys in rows
    ]
    return Evaluated(tuple(entries), tuple(metrics), directions)


def seeds(stage: str, *numbers: int) -> dict[str, Mapping[str, Any]]:
    """Runs of a stage that differ in their seed."""
    return {f"{stage}[seed={number}]": {"seed": number} for number in numbers}
