"""The contract that every method keeps: requirements, denominators, and a loss from a batch."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from raydistill.batch import Batch


@dataclass(frozen=True)
class Requirements:
    """What a method needs before any cluster time is spent."""

    min_teachers: int = 0
    """Fewest teachers the method works with."""
    max_teachers: int | None = 0
    """Most teachers, None for any number."""
    partners: bool = False
    """Whether each row needs a partner row of the corpus."""
    partner_width: str = "bucket"
    """Where partners are cut: ``bucket``, at the upper edge of the base row's length bucket, or ``batch``, at the
    padded width of the base's micro-batch, as published."""
    min_rows: int = 1
    """Fewest rows of a micro-batch."""
    row_coupled: bool = False
    """Whether the loss of a row depends on the other rows of its micro-batch, or on the micro-batch's number."""
    coupled_live: bool = False
    """Whether that is so where teachers run alone: what is stored of them belongs to each row."""
    heads: tuple[str, ...] = ()
    """Heads of the tasks that the method can train; empty means all."""
    tasks: tuple[str, ...] = ()
    """Names of the tasks that the method can train; empty means all with these heads."""
    stored: tuple[str, ...] = ()
    """Kinds of teacher outputs that the method reads and takes from a store too; empty where teachers must run."""
    one_at_a_time: bool = False
    """Whether teachers run inside ``weights_present`` alone, so that of several one at a time may have its weights."""
    own_encodings: bool = False
    """Whether a teacher may read the rows in another tokenizer's ids than the student; not where tokens are aligned."""
    partial_labels: bool = False
    """Whether each teacher may know a part of the student's classes. Such a method is given ``teacher_labels``: of each
    teacher the names of its logits in their order, which are in the student's order of classes, none where they are
    those of its ``config.id2label``."""
    labels: bool = True
    """Whether the loss reads the labels of rows; where not, batches may come without any."""


class Distiller(nn.Module, ABC):
    """A student, its frozen teachers and the loss between them, as one module that an engine can wrap.

    ``parameters()`` and ``state_dict()`` hold the student under ``student.`` and trainable adapters, never a
    teacher: teachers are kept in a tuple, which ``nn.Module`` does not register.
    """

    zero_at_teacher: ClassVar[tuple[str, ...]] = ()
    """Names of the terms that vanish when the student equals its teacher."""
    better_when_greater: ClassVar[tuple[str, ...]] = ()
    """Names of the terms that are no losses but better when greater, such as a share of equal predictions."""

    def __init__(self, config: Any, student: nn.Module, teachers: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.config = config
        self.student = student
        self.teachers = tuple(teachers)
        self.encodings: tuple[int, ...] = ()
        """Of each teacher the encoding that it reads, see ``batch.encoded_as``; empty where all read the student's."""
        self.teacher_rows = 0
        """Rows that teachers were run on so far, each teacher's and each pass over a batch counted."""
        for teacher in self.teachers:
            teacher.requires_grad_(False).eval()

    def encoding_of(self, number: int) -> int:
        """The encoding that a teacher reads."""
        return self.encodings[number] if self.encodings else 0

    @classmethod
    @abstractmethod
    def requirements(cls, config: Any) -> Requirements:
        """What this configuration needs; loads nothing."""

    @classmethod
    def check(cls, config: Any, student_config: Any, teacher_configs: Sequence[Any]) -> None:
        """Refuse models that this configuration cannot work with; reads model configurations, loads no weights.

        Raises ValueError naming the key, its value and the remedy.
        """

    @classmethod
    def check_running(cls, config: Any, teacher_configs: Sequence[Any]) -> None:
        """Refuse teachers that cannot be run as this configuration runs them; not asked where a capture is read.

        Raises ValueError naming the key, its value and the remedy.
        """

    @classmethod
    def stored_layers(cls, config: Any, student_config: Any, teacher_config: Any) -> tuple[int, ...]:
        """Numbers k of the hidden states hs[k] whose CLS states it reads of a teacher, when those are stored."""
        return ()

    @classmethod
    def prepare_batch(cls, config: Any, batch: Batch) -> Batch:
        """Add the columns that the method draws for itself; runs on the CPU in the data tasks."""
        return batch

    @abstractmethod
    def denominators(self, batch: Batch) -> dict[str, Tensor]:
        """Counts of what each term averages over, 0-d float tensors on the batch's device; runs no model."""

    @abstractmethod
    def forward(self, batch: Batch, denominators: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and the detached, unweighted terms, each a sum over the batch divided by its denominator.

        ``denominators`` are totals over all micro-batches and ranks of the optimizer step, so that the terms of
        all micro-batches and ranks add up to the terms of the global batch.
        """


def label_term(batch: Batch) -> str:
    """Name of the term of the true labels: ``ce`` of classes, ``mse`` of scores."""
    return "mse" if batch["labels"].is_floating_point() else "ce"


def row_count(batch: Batch) -> Tensor:
    """Number of rows, 0-d float64 on the batch's device."""
    return count_of(batch, batch.num_rows)


def count_of(batch: Batch, number: int) -> Tensor:
    """A number that the host knows, 0-d float64 on the batch's device."""
    return batch["row_id"].new_full((), number, dtype=torch.float64)
