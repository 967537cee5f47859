"""Which figures a version of a student needs to be promoted."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from raydistill.config.sections import Section
from raydistill.registry.student import BASELINE, TEACHER, StudentVersion

_ROUNDING = 1e-9
"""Tolerance for a difference of two figures, so that 0.9 is within 0.02 of 0.92."""


class GateConfig(Section):
    """What a student has to reach to be promoted."""

    metric: str | None = Field(default=None, min_length=1)
    """The figure of the evaluation that counts; by default the one by which versions are compared."""
    greater_is_better: bool | None = None
    """Whether a higher figure is better, as for ``accuracy`` and unlike for ``loss``. By default the metric decides,
    and a contradiction is an error."""
    at_least_champion: bool = True
    """Refuse a student that is worse than the version that has the alias; without such a version it passes."""
    within_of_teacher: float | None = Field(default=None, ge=0)
    """Refuse a student that is worse than the best of its teachers by more than this; None does not compare them."""

    @property
    def figure(self) -> str:
        """The figure that counts, once it is known, as in a version's tag."""
        assert self.metric is not None
        return self.metric


def gate_tag(gate: GateConfig) -> str:
    """The gate as text for a version's tag."""
    return json.dumps(gate.model_dump(mode="json"))


def unmet(version: StudentVersion, holder: StudentVersion | None) -> list[str]:
    """Why the gate of a version's job refuses it, one line per reason; none without a gate.

    ``holder`` is the version that has the alias, None when there is none.
    """
    if version.gate is None:
        return []
    gate = GateConfig.model_validate(version.gate)
    figure = version.figures.get(gate.figure)
    if figure is None:
        return [f"{gate.figure} of {version.title} is not known; register it with evaluation"]
    found = [_against_holder(gate, figure, holder)] if gate.at_least_champion else []
    found += [_against_teacher(gate, figure, version)] if gate.within_of_teacher is not None else []
    return [line for line in found if line is not None]


def gate_line(gate: Mapping[str, Any]) -> str:
    """A gate in one line for a reader."""
    one = GateConfig.model_validate(dict(gate))
    parts = ["at least the champion's"] if one.at_least_champion else []
    parts += [f"within {one.within_of_teacher:g} of the teacher's"] if one.within_of_teacher is not None else []
    better = "greater" if one.greater_is_better else "less"
    return f"{one.figure} ({better} is better) {' and '.join(parts) or 'known'}"


def figures_told(version: StudentVersion, holder: StudentVersion | None) -> list[str]:
    """The figures by which a version is judged in one line, and another where it is below its own baseline.

    None where no job says by which figure versions compare, or it is not known.
    """
    gate = None if version.gate is None else GateConfig.model_validate(version.gate)
    compared = version.compared_by if gate is None else (gate.figure, bool(gate.greater_is_better))
    if compared is None or compared[0] not in version.figures:
        return []
    metric, greater = compared
    figure = version.figures[metric]
    rows = [row for row in version.rows if row.role in (TEACHER, BASELINE) and metric in row.figures]
    others = [f"{row.figures[metric]:.6g} of {row.name}, its {row.role}" for row in rows]
    if holder is not None and holder.number != version.number and metric in holder.figures:
        others.append(f"{holder.figures[metric]:.6g} of {holder.title}")
    found = [f"{metric} is {figure:.6g}{', beside ' if others else ''}{', '.join(others)}"]
    sign = 1 if greater else -1
    found += [
        f"its baseline {row.name}, at {row.figures[metric]:.6g}, is better: distillation gained nothing here"
        for row in rows
        if row.role == BASELINE and sign * (row.figures[metric] - figure) > 0
    ]
    return found


def _against_holder(gate: GateConfig, figure: float, holder: StudentVersion | None) -> str | None:
    if holder is None:
        return None
    other = holder.figures.get(gate.figure)
    if other is None:
        return f"{gate.figure} of {holder.title}, whose place it would take, is not known"
    if _gain(gate, figure, over=other) >= 0:
        return None
    return f"{gate.figure} is {figure:.6g}, worse than {other:.6g} of {holder.title}, whose place it would take"


def _against_teacher(gate: GateConfig, figure: float, version: StudentVersion) -> str | None:
    assert gate.within_of_teacher is not None
    rows = [row for row in version.rows if row.role == TEACHER and gate.figure in row.figures]
    if not rows:
        return f"{gate.figure} of its teacher is not known; evaluate the teacher beside the student"
    best = max(rows, key=lambda row: _gain(gate, row.figures[gate.figure], over=0.0))
    other = best.figures[gate.figure]
    if _gain(gate, figure, over=other) >= -gate.within_of_teacher - _ROUNDING:
        return None
    return (
        f"{gate.figure} is {figure:.6g}, worse than {other:.6g} of {best.name}, its teacher, "
        f"by more than {gate.within_of_teacher:g}"
    )


def _gain(gate: GateConfig, figure: float, *, over: float) -> float:
    """How much better a figure is; NaN, which passes no bound, if either figure is NaN."""
    return figure - over if gate.greater_is_better else over - figure
