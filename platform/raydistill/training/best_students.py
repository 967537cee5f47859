"""The best students of a training, one by each of its criteria, in folders below its output."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from raydistill.config.named import MethodSpec, TaskSpec
from raydistill.config.training import TrainingConfig
from raydistill.data.storages import storage_at
from raydistill.training.position import Position, Terms
from raydistill.training.selection import (
    FURTHER,
    BestSoFar,
    Criterion,
    best_folder,
    criterion_of,
    further_criteria,
    further_note,
    prune_best,
    replace_by_copy,
    stop_reason,
    updated,
)


@dataclass(frozen=True)
class BestStudents:
    """What decides which students a training keeps, and where; one rank's part."""

    criterion: Criterion
    """Of the student that the training delivers where it delivers its best, and of stopping early."""
    further: Mapping[str, Criterion]
    """Of those that are kept besides, by their names."""
    output: Path

    @classmethod
    def of(
        cls, training: TrainingConfig, task: TaskSpec, method: MethodSpec, labels: Sequence[str], output: Path
    ) -> "BestStudents":
        """As a configuration says; ``labels`` name the corpus's classes."""
        main = criterion_of(training, task, method, labels)
        return cls(main, further_criteria(training, task, method, labels), output)

    def check(self, metrics: Mapping[str, float]) -> None:
        """Raise ValueError for an evaluation that lacks what a criterion compares."""
        for criterion in (self.criterion, *self.further.values()):
            criterion.value(metrics)

    def judge(self, position: Position, metrics: Terms, *, device: torch.device, is_last: bool) -> bool:
        """Bring the standings up to date with an evaluation; whether its student is to be kept."""
        criteria = (self.criterion, *self.further.values())
        # Rank 0's values count, so that no rank stops alone.
        values = torch.tensor([one.value(metrics) for one in criteria], dtype=torch.float64, device=device)
        dist.broadcast(values, 0)
        value, *others = values.tolist()
        position.standing = updated(position.standing, self.criterion, step=position.step, value=value)
        if position.standing.best_step == position.step:
            position.best_metrics = metrics
        for (name, criterion), other in zip(self.further.items(), others, strict=True):
            before = position.further.get(name, BestSoFar())
            position.further[name] = updated(before, criterion, step=position.step, value=other)
        if not is_last:
            position.stopped = stop_reason(position.standing, self.criterion)
        return position.step in self._kept(position)

    def remember(self, position: Position, *, num_saves: int) -> None:
        """Note with a checkpoint which students are the best, so that they stay as long as it does."""
        known = [*position.saved_bests, *self._kept(position)]
        # One more than are kept: the oldest of them goes only when this one is complete.
        position.saved_bests = known[-(num_saves + 1) * (1 + len(self.further)) :]

    def prune(self, position: Position) -> None:
        """Delete students that neither are the best nor were so in a checkpoint that is kept."""
        prune_best(self.output, [*position.saved_bests, *self._kept(position)])

    def deliver_further(self, position: Position, student: Path) -> Iterator[str]:
        """Put the further best students under their names, ``student`` for one that never was; a line on each."""
        for name, criterion in self.further.items():
            standing = position.further.get(name, BestSoFar())
            target, kept = self.output / (FURTHER + name), standing.kept_step
            source = student if kept is None else best_folder(self.output, kept)
            replace_by_copy(target, storage_at(source).fetch())
            storage_at(target).publish()
            yield further_note(target.name, standing, criterion)

    def shown_further(self, position: Position) -> dict[str, dict[str, object]]:
        """What is told of the further best students."""
        found = {name: position.further.get(name, BestSoFar()) for name in self.further}
        return {
            name: {"metric": self.further[name].key, **dataclasses.asdict(standing)} for name, standing in found.items()
        }

    def _kept(self, position: Position) -> list[int | None]:
        return [position.standing.kept_step, *(one.kept_step for one in position.further.values())]
