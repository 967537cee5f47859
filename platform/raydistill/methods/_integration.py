"""What the methods of knowledge integration share: several teachers, and which of the student's classes each knows.

Li et al. 2022, "From Mimicking to Integrating: Knowledge Integration for Pre-Trained Language Models", Findings of
EMNLP; code lancopku/MUKI @ 703fd17.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.batch import Batch
from raydistill.losses.integrated_targets import concatenated_target
from raydistill.losses.reduction import widen
from raydistill.losses.uncertainty import divergence_from_labels
from raydistill.methods._base import Distiller, Requirements
from raydistill.methods._checks import check_positive, check_weight
from raydistill.methods._teacher_outputs import teacher_logits
from raydistill.models.load import head_of

HEADS = ("sequence_classification",)
"""Heads that the methods train."""


@dataclass(frozen=True)
class IntegrationConfig:
    """Weight and temperature of the soft labels; defaults are those of the published scripts."""

    kd_alpha: float = 1.0
    """Weight of the soft labels."""
    temperature: float = 1.0
    """Logits are divided by it before the softmax."""

    def __post_init__(self) -> None:
        check_weight("kd_alpha", self.kd_alpha)
        if self.kd_alpha == 0:
            raise ValueError("kd_alpha is 0, so no classes are learnt; raise it")
        check_positive("temperature", self.temperature)


def of_outputs(*kinds: str, coupled_live: bool = False) -> Requirements:
    """What a method needs that reads ``kinds`` of outputs of one or more teachers, with tokenizers of their own."""
    return Requirements(
        min_teachers=1,
        max_teachers=None,
        coupled_live=coupled_live,
        heads=HEADS,
        stored=kinds,
        partial_labels=True,
        labels=False,
        own_encodings=True,
        one_at_a_time=True,
    )


def union_ids(teacher_labels: Sequence[Sequence[str]], student_config: Any) -> list[list[int]]:
    """For each teacher and each of its outputs the student's output of the same name.

    Raises ValueError for a name that a teacher has twice or the student lacks, and for a class that nobody teaches.
    """
    number_of = {name: number for number, name in student_config.id2label.items()}
    for position, names in enumerate(teacher_labels):
        unknown = [name for name in names if name not in number_of]
        if unknown:
            raise ValueError(
                f"teachers.{position} has the class {unknown[0]!r}, the student {', '.join(number_of)}; "
                f"name the teacher's outputs in teachers.{position}.labels as the corpus does"
            )
        if len(set(names)) != len(names):
            raise ValueError(f"teachers.{position} has a class twice: {', '.join(names)}; name each output once")
    taught = {name for names in teacher_labels for name in names}
    untaught = [name for name in number_of if name not in taught]
    if untaught:
        raise ValueError(f"nobody teaches {untaught[0]!r}; add a teacher that knows it, or take it from the corpus")
    return [[number_of[name] for name in names] for names in teacher_labels]


class IntegrationDistiller(Distiller):
    """A student of all classes and teachers that know some each; true labels are in no loss.

    ``agreement`` is the share of rows where the student's likeliest class is that of the teachers' common target.
    """

    zero_at_teacher = ("kd",)
    better_when_greater = ("agreement",)

    def __init__(
        self,
        config: Any,
        student: nn.Module,
        teachers: Sequence[nn.Module] = (),
        *,
        teacher_labels: Sequence[Sequence[str]] = (),
    ) -> None:
        """``teacher_labels``: for each teacher the names of its outputs, by default those in its configuration."""
        super().__init__(config, student, teachers)
        self.head = head_of(student)
        self.num_classes = int(student.config.num_labels)  # type: ignore[union-attr, arg-type]
        found = union_ids(teacher_labels or [_names_of(teacher) for teacher in self.teachers], student.config)
        self.num_teachers = len(found)
        """Number of teachers, also where none runs because their outputs are stored."""
        for number, ids in enumerate(found):
            # Not state: the student's and the teachers' names say it.
            self.register_buffer(f"classes_{number}", torch.tensor(ids, dtype=torch.int64), persistent=False)

    @classmethod
    def check(cls, config: Any, student_config: Any, teacher_configs: Sequence[Any]) -> None:
        """Refuse a student with a single output, a score."""
        if student_config.num_labels == 1:
            raise ValueError(
                "the student has a single output, a score; teachers of scores have no classes to integrate"
            )

    @property
    def classes(self) -> tuple[Tensor, ...]:
        """For each teacher (C_t,) int64: the student's output that stands for the same class as each of its own."""
        return tuple(self.get_buffer(f"classes_{number}") for number in range(self.num_teachers))

    def all_logits(self, batch: Batch) -> list[Tensor]:
        """Logits (B, C_t) of each teacher, without gradient."""
        return [teacher_logits(self, batch, number=number) for number in range(self.num_teachers)]

    def concatenated(self, of_teachers: Sequence[Tensor]) -> Tensor:
        """Probabilities (B, C): one softmax over the tempered logits of all teachers, entries of a class added."""
        return concatenated_target(of_teachers, self.classes, self.num_classes, temperature=self.config.temperature)

    def divergence(self, logits: Tensor, target: Tensor) -> Tensor:
        """KL(target || student) (B,) of the student's tempered logits (B, C), in nats."""
        return divergence_from_labels(widen(logits) / self.config.temperature, target)


def _names_of(teacher: Any) -> list[str]:
    names = teacher.config.id2label
    return [names[number] for number in sorted(names)]
