"""A figure as a mean over rows: the value and the weight of each, from the predictions that an evaluation keeps."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from raydistill.report.resampling import Array

_PROBABILITY = "probability."


def row_values(columns: Mapping[str, Any], figure: str) -> tuple[Array, Array]:
    """Values (N,) and weights (N,) of the rows in the order of their numbers, whose weighted mean is the figure.

    ``columns``: as ``TaskBase.predictions`` has them. Of ``perplexity`` the values are those of ``loss``, in nats, and
    the figure is the exponential of their mean.
    """
    order = np.argsort(np.asarray(columns["row_id"]), kind="stable")
    values, weights = _unordered(columns, "loss" if figure == "perplexity" else figure)
    return values[order], weights[order]


def _unordered(columns: Mapping[str, Any], figure: str) -> tuple[Array, Array]:
    if "tokens" in columns:
        tokens = np.asarray(columns["tokens"], dtype=np.float64)
        sums = np.asarray(columns["correct" if figure == "accuracy" else figure], dtype=np.float64)
        # A row without a target counts nothing, and 0 / 0 is no value of it.
        return np.divide(sums, tokens, out=np.zeros_like(sums), where=tokens > 0), tokens
    if figure in columns:
        values = np.asarray(columns[figure], dtype=np.float64)
    elif figure == "accuracy":
        said, meant = (np.asarray(columns[name], dtype=object) for name in ("prediction", "label"))
        values = (said == meant).astype(np.float64)
    else:
        values = _losses(columns)
    return values, np.ones_like(values)


def _losses(columns: Mapping[str, Any]) -> Array:
    """Of each row the negative logarithm of the probability of its label, in nats; of scores the squared error."""
    names = [name for name in columns if name.startswith(_PROBABILITY)]
    if not names:
        return np.square(np.asarray(columns["prediction"]) - np.asarray(columns["label"]))
    number = {name.removeprefix(_PROBABILITY): place for place, name in enumerate(names)}
    places = np.array([number[label] for label in columns["label"]])
    probabilities = np.stack([np.asarray(columns[name], dtype=np.float64) for name in names], axis=1)
    with np.errstate(divide="ignore"):
        return -np.log(probabilities[np.arange(len(places)), places])
