"""Classes or a score of a text or a pair of texts.

Devlin et al. 2019, sec. 4.1. Columns of any data set become ``text``, ``text_pair`` and ``label`` in its source.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raydistill.batch import Batch
from raydistill.discovery import unknown_choice
from raydistill.models.predictions import predict
from raydistill.tasks import _class_metrics
from raydistill.tasks._base import Column, LabelledRow, TaskBase
from raydistill.tasks._label_forms import nearest, written_forms
from raydistill.tasks._pair_rows import encode_pairs, token_types
from raydistill.tasks._row_scores import by_row, seen_rows
from raydistill.tasks._tokenizing import check_filler
from raydistill.user_error import UserError

__all__ = ["Config", "EncodeConfig", "Task", "check_tokenizer", "columns", "cut", "drop_reasons"]

_ALL, _NONE = "all", "none"
_LABELLED = (_ALL, "validation", _NONE)
_NOTHING = "no validation row has a label; hold out more text"


@dataclass(frozen=True)
class EncodeConfig:
    """What the labels are, and how long rows may be."""

    labels: tuple[str, ...] = ()
    """The names of the classes in the order of their ids; none for a score, which is a label that is a number."""
    max_length: int | None = 128
    """The maximum length of a row, special tokens included; longer texts are cut at their end. None: the tokenizer's
    limit."""
    labelled: str = _ALL
    """Which rows have labels: ``all``; ``validation``, to learn from unlabeled text and compare on labeled text; or
    ``none``. The labels of other rows are not read."""
    legacy_segments: bool = False
    """Whether pairs are encoded as the published StarK code wrote them, for its checkpoints only: token types two
    places too early, and a single text where the second one is empty."""

    def __post_init__(self) -> None:
        check_labels(self.labels)
        if self.labelled not in _LABELLED:
            raise UserError(unknown_choice("labelled", self.labelled, list(_LABELLED)))
        if self.max_length is not None and self.max_length < 5:
            raise UserError(f"max_length is {self.max_length}; it must be at least 5")

    def of_part(self, part: str) -> "EncodeConfig":
        """How the rows of ``train`` or of ``validation`` are encoded: all of them have labels, or none."""
        return replace(self, labelled=_ALL if self.labelled in (_ALL, part) else _NONE)


@dataclass(frozen=True)
class Config:
    """What models are compared by."""

    metrics: tuple[str, ...] | None = None
    """The metrics, the most telling first: ``accuracy``, ``f1`` of class 1, ``macro_f1`` and ``matthews`` for classes;
    ``pearson`` and ``spearman`` for scores. The default is ``accuracy`` for classes, and both for scores."""

    def __post_init__(self) -> None:
        if self.metrics is not None:
            _class_metrics.check_metrics(self.metrics)


def check_labels(labels: Sequence[str]) -> None:
    """Raise ValueError for names of classes that are too few or the same."""
    if len(labels) == 1 or len(set(labels)) != len(labels):
        raise UserError(f"labels is {', '.join(labels)}; give two or more different names, or none for scores")


def check_tokenizer(tokenizer: Any) -> None:
    """Raise ValueError when a tokenizer lacks a special token that the task needs."""
    check_filler(tokenizer)


def columns(config: EncodeConfig) -> dict[str, Column]:
    """A class id or a score, and where the second text of a pair starts, the row's length for a single text.

    Where nothing is labelled no class id and no score.
    """
    label = {} if config.labelled == _NONE else {"label": Column("int64" if config.labels else "float32")}
    return {**label, "second": Column("int32")}


def cut(examples: Sequence[Mapping[str, Any]], tokenizer: Any, config: EncodeConfig) -> list[LabelledRow]:
    """One row an example; raises ValueError for a missing or unknown label, unless nothing is labelled."""
    rows = encode_pairs(examples, tokenizer, max_length=config.max_length, legacy_segments=config.legacy_segments)
    if config.labelled == _NONE:
        return [LabelledRow(row.ids, {"second": row.second}) for row in rows]
    labels = [label_id(example, config.labels) for example in examples]
    return [
        LabelledRow(row.ids, {"label": label, "second": row.second}) for row, label in zip(rows, labels, strict=True)
    ]


def label_id(example: Mapping[str, Any], labels: Sequence[str]) -> int | float:
    """The id of an example's class, or its score where there are no classes; raises ValueError for any other label."""
    if "label" not in example:
        raise UserError(
            "an example has no label; name its column as label in the source, or write labelled: none in the encoding"
        )
    raw = example["label"]
    if labels:
        written = next((form for form in written_forms(raw) if form in labels), None)
        if written is None:
            near = nearest(raw, labels)
            raise UserError(f"an example has the label {raw!r}; encoding.labels names {', '.join(labels)}{near}")
        return list(labels).index(written)
    try:
        score = float(raw)
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise UserError(f"an example has the label {raw!r}, which is not a number; name classes in encoding.labels")
    return score


def drop_reasons(rows: Sequence[NDArray[Any]], tokenizer: Any, config: EncodeConfig) -> list[str | None]:
    """No row is left out."""
    return [None] * len(rows)


class Compared(Protocol):
    """Options that name what models are compared by."""

    @property
    def metrics(self) -> tuple[str, ...] | None:
        """Metrics, the most telling first; None for those that suit the classes."""


ComparedT = TypeVar("ComparedT", bound=Compared)
"""The type of the options of a task that classifies."""


class Task(TaskBase[ComparedT]):
    """Labels are class ids, or scores; writes ``labels`` (B,) where rows have any and, of pairs, ``token_types``."""

    HEAD = "sequence_classification"
    ENCODINGS = ("glue",)
    TEACHER_TOKENIZERS = True
    ROW_METRICS = ("accuracy", "loss")

    def prepare_batch(self, batch: Batch) -> Batch:
        """Nothing is drawn."""
        columns = {"labels": batch["label"]} if "label" in batch else {}
        width = batch["attention_mask"].shape[1]
        types = token_types(batch["token_index"], batch["second"], batch["lengths"], width=width)
        # Without a second text every model is given the types that it takes by itself.
        if bool(types.any()):
            columns["token_types"] = types
        return batch.with_columns(**columns)

    @classmethod
    def outputs(cls, config: ComparedT, labels: tuple[str, ...]) -> tuple[str, ...]:
        """The classes of the corpus; raises ValueError for a metric that does not suit them."""
        if config.metrics is not None:
            _class_metrics.check_suited(config.metrics, num_classes=len(labels))
        return labels

    @classmethod
    def higher_is_better(cls, config: ComparedT, labels: Sequence[str] | None = None) -> dict[str, bool]:
        """As each metric says; of the loss a smaller value."""
        metrics = _class_metrics.default_metrics(labels) if config.metrics is None else config.metrics
        return {**_class_metrics.higher_is_better(metrics), "loss": False}

    @property
    def _metrics(self) -> Sequence[str]:
        given = self.config.metrics
        return _class_metrics.default_metrics(self.labels) if given is None else given

    @torch.no_grad()
    def score(self, student: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Logits and, where it has one, label of each row."""
        return self.score_logits(predict(student, batch, head=self.HEAD).logits, batch)

    def score_logits(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The sums of logits (B, C), wherever they come from; -inf for a class that is never predicted."""
        labels = {"label": batch["labels"]} if "labels" in batch else {}
        return by_row(batch, self.encoding.num_rows, {"logits": logits, **labels})

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """The task's metrics, the mean ``loss`` in nats or squared units, and the number of ``rows``.

        Without labels the number of ``rows`` alone.
        """
        found = seen_rows(sums, nothing=_NOTHING)
        if "label" not in found:
            return {"rows": float(len(found["logits"]))}
        return _class_metrics.metrics_of(found["logits"], found["label"], self._metrics)

    def predictions(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """``row_id``, ``label``, ``prediction`` and, of classes, the ``probability`` of each as its own column.

        Without labels no ``label``.
        """
        found = seen_rows(sums, nothing=_NOTHING)
        return _class_metrics.predictions_of(found["row_id"], found["logits"], found.get("label"), self.labels)
