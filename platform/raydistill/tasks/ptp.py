"""Pretraining on a teacher's predictions: was it right about a row, and was it confident?

Pea-KD, "Parameter-efficient and accurate knowledge distillation on BERT"; code snudm-starlab/Pea-KD @ 0375288. The
labels are made of a teacher's stored logits and the row's class; the student starts its next training from what it
learned, with a head of that task's classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.batch import Batch
from raydistill.discovery import unknown_choice
from raydistill.tasks import classification
from raydistill.tasks._base import TaskBase
from raydistill.tasks.classification import EncodeConfig, check_tokenizer, columns, cut, drop_reasons
from raydistill.user_error import UserError

__all__ = ["LABELS", "PUBLISHED", "Config", "EncodeConfig", "Task", "check_tokenizer", "columns", "cut"]
__all__ += ["drop_reasons", "ptp_labels"]

LABELS = ("confidently_correct", "unconfidently_correct", "confidently_wrong", "unconfidently_wrong")
"""Names of the classes in the order of their ids."""

PUBLISHED = {
    "rte": (0.80, 0.60),
    "mrpc": (0.95, 0.75),
    "sst2": (0.98, 0.80),
    "qnli": (0.98, 0.70),
    "cola": (0.95, 0.70),
}
"""Thresholds of right and of wrong predictions by task of GLUE; none are published for the other tasks."""

_LOGITS = "teacher_0_logits"


@dataclass(frozen=True)
class Config:
    """Above which confidence a prediction is a confident one: give ``published``, ``t``, or ``t1`` and ``t2``.

    A confidence is the largest probability of a class; it must be greater than the threshold.
    """

    published: str | None = None
    """A task of GLUE whose published thresholds are taken: rte, mrpc, sst2, qnli or cola."""
    t: float | None = None
    """One threshold for all predictions."""
    t1: float | None = None
    """The threshold of right predictions."""
    t2: float | None = None
    """The threshold of wrong predictions."""

    def __post_init__(self) -> None:
        ways = [self.published is not None, self.t is not None, self.t1 is not None or self.t2 is not None]
        if sum(ways) != 1 or (self.t1 is None) != (self.t2 is None):
            given = {key: getattr(self, key) for key in ("published", "t", "t1", "t2")}
            shown = ", ".join(f"{key} {value}" for key, value in given.items() if value is not None)
            raise UserError(f"thresholds are {shown or 'missing'}; give published, or t, or both t1 and t2")
        if self.published is not None and self.published not in PUBLISHED:
            raise UserError(unknown_choice("published", self.published, list(PUBLISHED)) + "; or give t1 and t2")
        for key in ("t", "t1", "t2"):
            value = getattr(self, key)
            if value is not None and not 0 < value < 1:
                raise UserError(f"{key} is {value}; a threshold of a probability must be between 0 and 1")

    @property
    def thresholds(self) -> tuple[float, float]:
        """Those of right and of wrong predictions."""
        if self.published is not None:
            return PUBLISHED[self.published]
        if self.t is not None:
            return self.t, self.t
        assert self.t1 is not None
        assert self.t2 is not None
        return self.t1, self.t2


def ptp_labels(teacher_logits: Tensor, labels: Tensor, *, t1: float, t2: float) -> Tensor:
    """Ids (B,) int64 of ``LABELS`` for a teacher's logits (B, C) and the true classes (B,).

    Confidences are float32 and compared strictly, as published.
    """
    confidence, predicted = teacher_logits.float().softmax(dim=-1).max(dim=-1)
    right = predicted == labels
    confident = torch.where(right, confidence > t1, confidence > t2)
    return 2 * (~right).long() + (~confident).long()


class Task(TaskBase[Config]):
    """Four classes of a row, or of a pair, by what the teacher said of it; writes ``labels`` (B,)."""

    HEAD = "sequence_classification"
    ENCODINGS = ("classification", "glue")
    NEEDS_STORED = ("logits",)

    def __init__(self, config: Config, encoding: Any) -> None:
        super().__init__(config, encoding)
        self._classes = classification.Task(classification.Config(), encoding)

    @classmethod
    def outputs(cls, config: Config, labels: tuple[str, ...]) -> tuple[str, ...]:
        """The four names; raises ValueError for a corpus of scores."""
        if not labels:
            raise UserError("task is 'ptp', but the labels of the corpus are scores; it needs classes")
        return LABELS

    def prepare_batch(self, batch: Batch) -> Batch:
        """Nothing is drawn; raises ValueError for a batch without the teacher's logits."""
        logits = batch.get(_LOGITS)
        if logits is None:
            raise UserError(
                f"task is 'ptp', but the batch has no {_LOGITS}; capture a teacher's logits and name that stage as "
                "teacher_outputs"
            )
        batch = self._classes.prepare_batch(batch)
        t1, t2 = self.config.thresholds
        return batch.with_columns(labels=ptp_labels(logits, batch["labels"], t1=t1, t2=t2))

    @classmethod
    def higher_is_better(cls, config: Config, labels: Sequence[str] | None = None) -> dict[str, bool]:
        """Accuracy over the four classes, and their loss."""
        return classification.Task.higher_is_better(classification.Config(), LABELS)

    def score(self, student: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Logits and label of each row."""
        return self._classes.score(student, batch)

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """``accuracy``, the mean ``loss`` in nats and the number of ``rows``."""
        return self._classes.metrics(sums)
