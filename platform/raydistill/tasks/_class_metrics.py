"""Metrics of classes and scores by their names, from logits and labels; scikit-learn and SciPy compute them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydistill.discovery import unknown_choice
from raydistill.user_error import UserError

Values = NDArray[Any]


def _accuracy(predictions: Values, labels: Values) -> float:
    return float(np.mean(predictions == labels))


def _f1(predictions: Values, labels: Values) -> float:
    """Of class 1, as GLUE has it."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, zero_division=0.0))


def _macro_f1(predictions: Values, labels: Values) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, average="macro", zero_division=0.0))


def _matthews(predictions: Values, labels: Values) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, predictions))


def _pearson(predictions: Values, labels: Values) -> float:
    from scipy.stats import pearsonr

    # Of a constant there is no correlation.
    constant = np.ptp(predictions) == 0 or np.ptp(labels) == 0
    return 0.0 if constant else float(pearsonr(predictions, labels).statistic)


def _spearman(predictions: Values, labels: Values) -> float:
    from scipy.stats import spearmanr

    constant = np.ptp(predictions) == 0 or np.ptp(labels) == 0
    return 0.0 if constant else float(spearmanr(predictions, labels).statistic)


OF_CLASSES: dict[str, Callable[[Values, Values], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "macro_f1": _macro_f1,
    "matthews": _matthews,
}
OF_SCORES: dict[str, Callable[[Values, Values], float]] = {"pearson": _pearson, "spearman": _spearman}


def default_metrics(labels: Sequence[str] | None) -> tuple[str, ...]:
    """The metrics of classes with these names, or of scores, which have none; of either while that is not known."""
    of_classes, of_scores = ("accuracy",), ("pearson", "spearman")
    if labels is None:
        return of_classes + of_scores
    return of_classes if labels else of_scores


def check_metrics(names: Sequence[str]) -> None:
    """Raise ValueError for a metric that there is not, or for metrics of classes and of scores together."""
    known = [*OF_CLASSES, *OF_SCORES]
    for name in names:
        if name not in known:
            raise UserError(unknown_choice("metrics", name, known))
    if not names:
        raise UserError(f"metrics is empty; choices: {', '.join(known)}")
    if set(names) & set(OF_CLASSES) and set(names) & set(OF_SCORES):
        raise UserError(f"metrics is {', '.join(names)}; those of classes and of scores do not go together")


def check_suited(names: Sequence[str], *, num_classes: int) -> None:
    """Raise ValueError for metrics that so many classes, 0 for scores, do not have."""
    table = OF_CLASSES if num_classes else OF_SCORES
    unfit = [name for name in names if name not in table]
    if unfit:
        what = f"{num_classes} classes have" if num_classes else "scores have"
        raise UserError(f"metrics has {unfit[0]}, {what} {', '.join(table)}; change task.metrics")
    if "f1" in names and num_classes != 2:
        raise UserError(f"metrics has f1, which is that of class 1 of two, but there are {num_classes}; use macro_f1")


def metrics_of(logits: Values, labels: Values, names: Sequence[str]) -> dict[str, float]:
    """The named metrics, the mean ``loss`` and the number of ``rows``.

    Shapes: logits (N, C) or (N, 1) of scores, labels (N,). Raises ValueError for metrics of classes asked of scores or
    the other way round.
    """
    of_scores = logits.shape[1] == 1
    table = OF_SCORES if of_scores else OF_CLASSES
    unfit = [name for name in names if name not in table]
    if unfit:
        raise UserError(f"metrics has {unfit[0]}, which is none of {', '.join(table)}; change task.metrics")
    predictions = logits[:, 0] if of_scores else logits.argmax(axis=1)
    found = {name: table[name](predictions, labels) for name in names}
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
