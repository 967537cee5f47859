"""What trainings logged, as curves against the step: one for all runs that differ in their seed alone."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raydistill.report.grouping import grouped
from raydistill.report.tables import Statistic

TRAIN, VALIDATION, TASK = "train/", "validation/", "eval/"
"""What names in a history start with: terms on the step's rows, and terms and the task's metrics on validation rows."""
SPEED, TOKENS = "speed/tokens_per_s", "progress/tokens"
"""Tokens a second since the line before, and all tokens so far."""

Points = Mapping[int, float]
"""Values by step, in order."""


@dataclass(frozen=True)
class Training:
    """One run of a training: the stage, the matrix keys that made the run, and the lines of its history."""

    stage: str
    assignment: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]

    def points(self, name: str) -> Points:
        """The values of a metric by step."""
        return {int(line["step"]): float(line[name]) for line in self.history if name in line}


@dataclass(frozen=True)
class Curve:
    """The runs of one group, at least one, in one metric."""

    label: str
    position: int
    """Place of the group among all groups of the trainings, the same for every metric."""
    runs: Sequence[Points]

    @property
    def steps(self) -> list[int]:
        """Steps that all runs have."""
        return [step for step in self.runs[0] if all(step in points for points in self.runs)]

    @property
    def statistics(self) -> list[Statistic]:
        """Mean and spread over the runs at each of ``steps``."""
        return [Statistic.of([points[step] for points in self.runs]) for step in self.steps]

    @property
    def is_uneven(self) -> bool:
        """Whether some run has steps that another lacks, as when one stopped early."""
        return any(len(points) != len(self.steps) for points in self.runs)


def curves(trainings: Sequence[Training], name: str) -> list[Curve]:
    """A curve for each group that has the metric, with those of its runs that have it."""
    found = []
    groups = grouped([(training.stage, training.assignment) for training in trainings])
    for position, (label, members) in enumerate(groups):
        runs = [points for member in members if (points := trainings[member].points(name))]
        if runs:
            found.append(Curve(label, position, runs))
    return found


def terms(trainings: Iterable[Training]) -> list[str]:
    """Terms of the trainings' losses, their sum ``loss`` first."""
    names = (name for training in trainings for line in training.history for name in line)
    found = dict.fromkeys(name.removeprefix(TRAIN) for name in names if name.startswith(TRAIN))
    return sorted(found, key=lambda name: name != "loss")


def metrics(trainings: Iterable[Training]) -> list[str]:
    """The task's metrics that some training logged, in order."""
    names = (name for training in trainings for line in training.history for name in line)
    return list(dict.fromkeys(name.removeprefix(TASK) for name in names if name.startswith(TASK)))


def spent(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What a training cost: optimizer ``steps``, ``tokens``, ``seconds`` of its steps; nothing without a history.

    Evaluations and checkpoints between the steps take no part, as in the tokens per second that it logged.
    """
    logged = [line for line in history if SPEED in line]
    if not logged:
        return {}
    seconds, before = 0.0, 0.0
    for line in logged:
        seconds += (line[TOKENS] - before) / line[SPEED]
        before = line[TOKENS]
    return {"steps": float(logged[-1]["step"]), "tokens": before, "seconds": seconds}
