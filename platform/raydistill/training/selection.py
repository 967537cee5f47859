"""Which student of a training is the best, and when to stop for want of a better one.

Every rank decides for itself, from the same numbers.
"""

import math
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from raydistill.atomic import atomic_folder
from raydistill.config.directions import greater_is_better
from raydistill.config.named import MethodSpec, TaskSpec
from raydistill.config.training import TrainingConfig
from raydistill.data.storages import storage_at
from raydistill.user_error import UserError

METHOD, TASK = "validation/", "eval/"
"""What the names of an evaluation's metrics start with: the method's loss and terms, the task's metrics."""

_LOSS = "loss"
_NUMBERED = re.compile(r"teacher_\d+_")
_FOLDER = "best-"
FURTHER = "best_"
"""What the folder of a further best student starts with."""


@dataclass(frozen=True)
class Criterion:
    """How evaluations are compared; ``criterion_of`` makes one of a configuration."""

    key: str
    """The metric's name as it is logged."""
    greater_is_better: bool
    option: str = "training.metric_for_best_model"
    """The key of a job that names the metric."""
    written: str = field(default="", compare=False)
    """How it names it there."""
    saving_criterion: float | None = None
    patience: int | None = None
    threshold: float = 0.0

    def value(self, metrics: Mapping[str, float]) -> float:
        """The metric among those of an evaluation; raises ValueError with the choices if it is not there."""
        if self.key not in metrics:
            raise UserError(
                f"{self.option} is {self.key!r}, which evaluations do not have; choices: {', '.join(sorted(metrics))}"
            )
        return metrics[self.key]

    def improvement(self, value: float, other: float) -> float:
        """By how much ``value`` is better than ``other``, negative if it is worse."""
        return value - other if self.greater_is_better else other - value


@dataclass(frozen=True)
class BestSoFar:
    """The best evaluation so far; plain data, saved with every checkpoint."""

    best_value: float | None = None
    best_step: int | None = None
    kept_step: int | None = None
    """Step of the best student that is kept, None while none beat the saving criterion."""
    num_without_improvement: int = 0
    """Evaluations since the last improvement that counts."""


class _NamedMetric(NamedTuple):
    """A metric that a job names."""

    metric: str
    greater_is_better: bool | None
    key: str
    """Where it stands, below ``training``."""


def criterion_of(
    training: TrainingConfig, task: TaskSpec, method: MethodSpec, labels: Sequence[str] | None = None
) -> Criterion:
    """How a training compares its evaluations; ``labels`` name the corpus's classes, as far as they are known.

    Raises ValueError with the choices for a metric that it cannot have, and for a direction that is not the metric's
    own. Which of its terms a method has is known only when it runs, so that ``Criterion.value`` looks again.
    """
    found = _criterion(
        _NamedMetric(training.metric_for_best_model, training.greater_is_better, "metric_for_best_model"),
        task,
        method,
        labels,
    )
    return replace(
        found,
        saving_criterion=training.saving_criterion,
        patience=training.early_stopping_patience,
        threshold=training.early_stopping_threshold,
    )


def further_criteria(
    training: TrainingConfig, task: TaskSpec, method: MethodSpec, labels: Sequence[str] | None = None
) -> dict[str, Criterion]:
    """How evaluations are compared for further best students, by their names; raises ValueError as ``criterion_of``."""
    found = {}
    for name, best in training.also_best.items():
        wanted = _NamedMetric(best.metric, best.greater_is_better, f"also_best.{name}.metric")
        found[name] = replace(_criterion(wanted, task, method, labels), saving_criterion=best.saving_criterion)
    return found


def _criterion(wanted: _NamedMetric, task: TaskSpec, method: MethodSpec, labels: Sequence[str] | None) -> Criterion:
    name, directions = wanted.metric, directions_of(task, method, labels)
    key = name if "/" in name else (METHOD if name in metrics_of_method(method) else TASK) + name
    own = _NUMBERED.sub("teacher_#_", key)
    # Under the name that the user wrote, which messages tell.
    known = {name: directions[own]} if own in directions else {**_unprefixed(task, method, labels), **directions}
    option = f"training.{wanted.key}"
    greater = greater_is_better(
        name,
        known,
        stated=wanted.greater_is_better,
        key=option,
        stated_key=f"{option.rpartition('.')[0]}.greater_is_better",
    )
    return Criterion(key=key, greater_is_better=greater, option=option, written=name)


def metrics_of_method(method: MethodSpec) -> list[str]:
    """What compares students without labels: the loss and, of some methods, how often they agree with teachers."""
    return [_LOSS, *(term for term, greater in method.method.directions.items() if greater)]


def directions_of(task: TaskSpec, method: MethodSpec, labels: Sequence[str] | None = None) -> dict[str, bool | None]:
    """All that evaluations of a training may log by its name there, and of each whether a greater value is better."""
    of_method = {_LOSS: False, **method.method.directions}
    return {
        **{METHOD + term: greater for term, greater in of_method.items()},
        **{TASK + metric: greater for metric, greater in task.higher_is_better(labels).items()},
    }


def _unprefixed(task: TaskSpec, method: MethodSpec, labels: Sequence[str] | None) -> dict[str, bool | None]:
    """The same of those that can be named without the word before the slash."""
    of_method = {_LOSS: False, **dict.fromkeys(metrics_of_method(method)[1:], True)}
    of_task = task.higher_is_better(labels)
    return {**of_method, **{name: greater for name, greater in of_task.items() if name not in of_method}}


def selection_line(training: TrainingConfig, method: MethodSpec, criterion: Criterion) -> str:
    """Which student a training delivers and whether labels are read to find it, empty for methods that learn from them.

    Those whose teachers may know a part of the classes do not.
    """
    if not method.requirements.execution.partial_label_space:
        return ""
    reads = "no labels" if criterion.key.startswith(METHOD) else "the labels of validation rows"
    which = f"the {'greatest' if criterion.greater_is_better else 'least'} {criterion.key}, which reads {reads}"
    if training.load_best_model_at_end:
        return f"delivers the student with {which}"
    if criterion.patience is not None:
        return f"delivers the last student, and stops early by {which}"
    return "delivers the last student; no labels are read to train or to choose it"


def updated(standing: BestSoFar, criterion: Criterion, *, step: int, value: float) -> BestSoFar:
    """The standing after an evaluation at ``step``; ``kept_step`` is ``step`` if its student is to be kept."""
    if math.isnan(value):
        gained = -math.inf
    else:
        gained = math.inf if standing.best_value is None else criterion.improvement(value, standing.best_value)
    waited = 0 if gained > criterion.threshold else standing.num_without_improvement + 1
    if not gained > 0:
        return replace(standing, num_without_improvement=waited)
    limit = criterion.saving_criterion
    kept = step if limit is None or criterion.improvement(value, limit) > 0 else None
    return BestSoFar(best_value=value, best_step=step, kept_step=kept, num_without_improvement=waited)


def stop_reason(standing: BestSoFar, criterion: Criterion) -> str:
    """Why a training should stop now, empty if it should not."""
    if criterion.patience is None or standing.num_without_improvement < criterion.patience:
        return ""
    spent = f"training.early_stopping_patience={criterion.patience}"
    return f"early stopping: {spent} is spent without a better {criterion.key}, {_best(standing)}"


def missing_note(standing: BestSoFar, criterion: Criterion) -> str:
    """What to tell when a best student was asked for and none was kept."""
    return f"{_unbeaten(standing, criterion)}; the trained student is the last one"


def further_note(name: str, standing: BestSoFar, criterion: Criterion) -> str:
    """What to tell of a further best student, also where none was kept."""
    if standing.kept_step is None:
        return f"{_unbeaten(standing, criterion)}; {name} is the trained student"
    return f"{name} is the student of step {standing.best_step}: {criterion.key} is {standing.best_value:.6g}"


def _unbeaten(standing: BestSoFar, criterion: Criterion) -> str:
    section = criterion.option.rpartition(".")[0]
    limit = f"{section}.saving_criterion={criterion.saving_criterion}"
    return f"no student beat {limit} in {criterion.key}, {_best(standing)}"


def _best(standing: BestSoFar) -> str:
    if standing.best_value is None:
        return "which never was a number"
    return f"whose best is {standing.best_value:.6g} at step {standing.best_step}"


def best_folder(output: Path, step: int) -> Path:
    """Where a training keeps the best student that it had at ``step``."""
    return output / f"{_FOLDER}{step}"


def best_folders(output: Path) -> list[Path]:
    """Where the best students lie that a training kept on its way."""
    return [folder for folder in storage_at(output).subfolders() if folder.name.startswith(_FOLDER)]


def prune_best(output: Path, keep: Iterable[int | None]) -> None:
    """Delete the kept students of all other steps."""
    wanted = {best_folder(output, step) for step in keep if step is not None}
    for folder in best_folders(output):
        if folder not in wanted:
            storage_at(folder).remove()


def replace_by_copy(target: Path, source: Path) -> None:
    """Make ``target`` a copy of a folder; it is never half-written."""
    with atomic_folder(target) as made:
        shutil.copytree(source, made, dirs_exist_ok=True)
