"""Where a training is: what a checkpoint has of it besides weights and moments."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raydistill.training.selection import BestSoFar

Terms = dict[str, float]
"""Metrics by their names."""


@dataclass
class Position:
    """Where a run is: saved with every checkpoint, as plain data."""

    step: int = 0
    tokens: int = 0
    teacher_rows: int = 0
    """Rows of the batches that teachers were run on, those of evaluations too, once for each teacher."""
    metrics: Terms = field(default_factory=dict)
    """Latest value of every metric."""
    standing: BestSoFar = field(default_factory=BestSoFar)
    """Which evaluation is the best."""
    further: dict[str, BestSoFar] = field(default_factory=dict)
    """The same by each further criterion, by their names."""
    best_metrics: Terms = field(default_factory=dict)
    """What the best evaluation found."""
    saved_bests: list[int | None] = field(default_factory=list)
    """Steps of the kept students that the latest checkpoints know, so that none of them is deleted."""
    stopped: str = ""
    """Why training ended before its schedule."""

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Position":
        """A position that ``asdict`` made plain data of."""
        further = {name: BestSoFar(**standing) for name, standing in state.get("further", {}).items()}
        return cls(**{**state, "standing": BestSoFar(**state["standing"]), "further": further})
