"""Metrics of classes and scores by their names, from logits and labels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydistill import discovery
from raydistill.plugins import METRICS
from raydistill.user_error import UserError

Values = NDArray[Any]


def default_metrics(labels: Sequence[str] | None) -> tuple[str, ...]:
    """The metrics of classes with these names, or of scores, which have none; of either while that is not known."""
    of_classes, of_scores = ("accuracy",), ("pearson", "spearman")
    if labels is None:
        return of_classes + of_scores
    return of_classes if labels else of_scores


def check_metrics(names: Sequence[str]) -> None:
    """Raise ValueError for a metric that there is not, or for metrics of classes and of scores together."""
    known = discovery.names(METRICS)
    for name in names:
        if name not in known:
            raise UserError(discovery.unknown_choice("metrics", name, known))
    if not names:
        raise UserError(f"metrics is empty; choices: {', '.join(known)}")
    if len({_of(name) for name in names}) > 1:
        raise UserError(f"metrics is {', '.join(names)}; those of classes and of scores do not go together")


def check_suited(names: Sequence[str], *, num_classes: int) -> None:
    """Raise ValueError for metrics that so many classes, 0 for scores, do not have."""
    _check_kind(names, "classes" if num_classes else "scores", num_classes)
    if "f1" in names and num_classes != 2:
        raise UserError(f"metrics has f1, which is that of class 1 of two, but there are {num_classes}; use macro_f1")


def higher_is_better(names: Sequence[str]) -> dict[str, bool]:
    """Of each metric whether a greater value is better."""
    return {name: bool(discovery.load(METRICS, name).HIGHER_IS_BETTER) for name in names}


def _of(name: str) -> str:
    """What a metric is of, ``classes`` or ``scores``."""
    return str(discovery.load(METRICS, name).OF)


def _check_kind(names: Sequence[str], kind: str, num_classes: int) -> None:
    unfit = [name for name in names if _of(name) != kind]
    if unfit:
        what = f"{num_classes} classes have" if num_classes else "scores have"
        choices = ", ".join(name for name in discovery.names(METRICS) if _of(name) == kind)
        raise UserError(f"metrics has {unfit[0]}, {what} {choices}; change task.metrics")


def metrics_of(logits: Values, labels: Values, names: Sequence[str]) -> dict[str, float]:
    """The named metrics, the mean ``loss`` and the number of ``rows``.

    Shapes: logits (N, C) or (N, 1) of scores, labels (N,). Raises ValueError for metrics of classes asked of scores or
    the other way round.
    """
    of_scores = logits.shape[1] == 1
    _check_kind(names, "scores" if of_scores else "classes", 0 if of_scores else logits.shape[1])
    predictions = logits[:, 0] if of_scores else logits.argmax(axis=1)
    found = {name: float(discovery.load(METRICS, name).metric(predictions, labels)) for name in names}
    return {**found, "loss": _loss(logits, labels), "rows": float(len(labels))}


def _loss(logits: Values, labels: Values) -> float:
    if logits.shape[1] == 1:
        return float(np.mean((logits[:, 0] - labels) ** 2))
    from scipy.special import log_softmax

    of_labels = log_softmax(logits, axis=1)[np.arange(len(labels)), labels.astype(int)]
    return float(-np.mean(of_labels))


def predictions_of(row_ids: Values, logits: Values, labels: Values | None, names: Sequence[str]) -> dict[str, Any]:
    """Columns ``row_id``, ``label`` and ``prediction``, and ``probability.<name>`` of each class.

    Shapes: row_ids (N,), logits (N, C) or (N, 1) of scores, labels (N,) or None for no such column; ``names`` of the C
    classes, none for scores, of which label and prediction are numbers.
    """
    rows = row_ids.astype(np.int64)
    if not names:
        return {"row_id": rows, **({} if labels is None else {"label": labels}), "prediction": logits[:, 0]}
    from scipy.special import softmax

    known = np.array(names, dtype=object)
    probabilities = {
        f"probability.{name}": column for name, column in zip(names, softmax(logits, axis=1).T, strict=True)
    }
    meant = {} if labels is None else {"label": known[labels.astype(int)]}
    return {"row_id": rows, **meant, "prediction": known[logits.argmax(axis=1)], **probabilities}
