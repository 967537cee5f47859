"""The nine tasks of GLUE: classification with their classes and metrics.

Wang et al. 2019, https://openreview.net/forum?id=rJ4km2R5t7. Class ids follow the data set on the hub. Published
codes disagree on them: for RTE and QNLI entailment is 0 in one and 1 in another, and MNLI has three orders. So names
rule: classes of a checkpoint are found by their names, and one without names is given them in its own order, as
``labels`` beside ``checkpoint``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from raydistill.discovery import unknown_choice
from raydistill.tasks import classification
from raydistill.tasks.classification import check_tokenizer, columns, cut, drop_reasons
from raydistill.user_error import UserError

__all__ = ["TASKS", "Config", "EncodeConfig", "GlueTask", "Task", "check_task", "check_tokenizer"]
__all__ += ["columns", "cut", "drop_reasons"]

COMBINED = "combined"


class GlueTask(NamedTuple):
    """What is asked in a task of GLUE."""

    labels: tuple[str, ...]
    """The names of the classes in the order of their ids, none for a score."""
    metrics: tuple[str, ...] = ("accuracy",)


TASKS = {
    "cola": GlueTask(("unacceptable", "acceptable"), ("matthews",)),
    "sst2": GlueTask(("negative", "positive")),
    "mrpc": GlueTask(("not_equivalent", "equivalent"), ("accuracy", "f1")),
    "stsb": GlueTask((), ("pearson", "spearman")),
    "qqp": GlueTask(("not_duplicate", "duplicate"), ("accuracy", "f1")),
    "mnli": GlueTask(("entailment", "neutral", "contradiction")),
    "qnli": GlueTask(("entailment", "not_entailment")),
    "rte": GlueTask(("entailment", "not_entailment")),
    "wnli": GlueTask(("not_entailment", "entailment")),
}
"""The tasks by their names on the hub."""

STARK_LABELS = {
    **{name: task.labels for name, task in TASKS.items()},
    "mnli": ("contradiction", "neutral", "entailment"),
    "qnli": ("not_entailment", "entailment"),
    "rte": ("not_entailment", "entailment"),
}
"""Classes in the order of the outputs of the published StarK checkpoints (GeneZC/StarK @ ac1e8d1): their ``labels``."""


def check_task(name: str) -> None:
    """Raise ValueError for what is no task of GLUE."""
    if name not in TASKS:
        raise UserError(unknown_choice("task", name, list(TASKS)))


@dataclass(frozen=True)
class EncodeConfig:
    """Which task, and how long rows may be."""

    labelled: ClassVar[str] = "all"
    """Rows without a label are left out."""
    task: str
    """cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte or wnli."""
    max_length: int | None = 128
    """The length of the longest row with its special tokens; longer texts are cut at their end. None: the tokenizer's
    limit."""
    labels: tuple[str, ...] | None = None
    """The names of the classes in the order of their ids, none for a score. The task decides them: leave them out."""
    legacy_segments: bool = False
    """Pairs as the published StarK code wrote them, for its checkpoints alone: token types two places too early, and a
    single text where the second one is empty."""

    def __post_init__(self) -> None:
        check_task(self.task)
        expected = TASKS[self.task].labels
        if self.labels not in (None, expected):
            raise UserError(
                f"labels is {', '.join(self.labels or ()) or 'empty'}; those of {self.task} are "
                f"{', '.join(expected) or 'scores'}; leave labels out"
            )
        # A field, not a property, so that a corpus's manifest has the names.
        object.__setattr__(self, "labels", expected)
        # The same limits of the length.
        classification.EncodeConfig(expected, self.max_length)


@dataclass(frozen=True)
class Config:
    """Which task, and so which metrics.

    Matthews's correlation for CoLA, accuracy and F1 of the positive class for MRPC and QQP, Pearson's and Spearman's
    correlations for STS-B, and accuracy for the others; ``combined`` is the mean of two metrics.
    """

    task: str
    """cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte or wnli."""

    def __post_init__(self) -> None:
        check_task(self.task)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The task's metrics."""
        return TASKS[self.task].metrics


class Task(classification.Task[Config]):
    """Classes or scores of a task of GLUE; also of corpora that ``classification`` encoded with the same classes."""

    ENCODINGS = ("classification",)

    @classmethod
    def outputs(cls, config: Config, labels: tuple[str, ...]) -> tuple[str, ...]:
        """The classes of the corpus; raises ValueError for those of another task."""
        expected = TASKS[config.task].labels
        if labels != expected:
            raise UserError(
                f"task.task is {config.task!r}, whose classes are {', '.join(expected) or 'none, but scores'}; the "
                f"corpus has {', '.join(labels) or 'scores'}; encode both for one task, in this order of classes"
            )
        return labels

    @classmethod
    def higher_is_better(cls, config: Config, labels: Sequence[str] | None = None) -> dict[str, bool]:
        """The task's metrics, two of them led by their mean."""
        mean = {COMBINED: True} if len(config.metrics) > 1 else {}
        return {**mean, **super().higher_is_better(config, labels)}

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """The task's metrics, their mean ``combined`` where there are two, the mean ``loss`` and ``rows``.

        Without labels the number of ``rows`` alone.
        """
        found = super().metrics(sums)
        names = [name for name in self.config.metrics if name in found]
        mean = {COMBINED: sum(found[name] for name in names) / len(names)} if len(names) > 1 else {}
        return {**mean, **found}
