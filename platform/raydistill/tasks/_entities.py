"""Entities in sequences of tags such as B-PER, counted by their type as seqeval does by default, of any scheme."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydistill import names
from raydistill.user_error import UserError

_PREFIXES = "BIES"
_TAG = re.compile(r"O|[BIES](-.+)?")


def check_tags(labels: Sequence[str]) -> None:
    """Raise ValueError for tags that are too few, the same, or of no known scheme."""
    if len(labels) < 2 or len(set(labels)) != len(labels):
        raise UserError(f"labels is {', '.join(labels) or 'empty'}; give two or more different tags, such as O, B-PER")
    for label in labels:
        if not _TAG.fullmatch(label):
            raise UserError(f"labels has {label!r}; a tag is O, or starts with B-, I-, E- or S-, such as B-PER")


def in_order(tags: Iterable[str]) -> tuple[str, ...]:
    """Tags with O first, then by their types, of a type B, I, E and S."""
    return tuple(sorted(tags, key=lambda tag: (tag != "O", tag[2:], _PREFIXES.find(tag[:1]))))


def entity_types(labels: Sequence[str]) -> tuple[str, ...]:
    """What entities there are with these tags, sorted; ``_`` for tags without a type."""
    return tuple(sorted({label[2:] or "_" for label in labels if label != "O"}))


def entity_counts(
    tags: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], types: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """Numbers of ``true`` and ``predicted`` entities, and of those that are both, ``found``, of each type.

    Shapes: (types,). An entity is found when its type, first and last word are right. Both arguments have the tags of
    the same words, a sequence a sentence; no entity goes beyond its sentence.
    """
    from seqeval.metrics.sequence_labeling import get_entities

    true, guessed = (set(get_entities([list(one) for one in of_rows])) for of_rows in (tags, predicted))
    sets = {"true": true, "predicted": guessed, "found": true & guessed}
    number = {name: place for place, name in enumerate(types)}
    return {
        name: np.bincount([number[entity[0]] for entity in found], minlength=len(types)).astype(np.float64)
        for name, found in sets.items()
    }


def entity_metrics(sums: Mapping[str, Any], types: Sequence[str]) -> dict[str, float]:
    """Micro ``precision``, ``recall`` and ``f1``, the ``f1_<type>`` of each type, and the number of ``entities``.

    A share of nothing is 0.
    """
    true, predicted, found = (np.atleast_1d(sums[name]) for name in ("true", "predicted", "found"))
    precision, recall, f1 = _shares(true.sum(), predicted.sum(), found.sum())
    words = names.distinct(types, names.FIGURE)
    of_types = {
        f"f1_{words[name]}": _shares(*counts)[2] for name, *counts in zip(types, true, predicted, found, strict=True)
    }
    return {"f1": f1, "precision": precision, "recall": recall, **of_types, "entities": float(true.sum())}


def _shares(true: float, predicted: float, found: float) -> tuple[float, float, float]:
    """Precision, recall and their harmonic mean."""
    precision = float(found / predicted) if predicted else 0.0
    recall = float(found / true) if true else 0.0
    return precision, recall, 2 * precision * recall / (precision + recall) if found else 0.0
