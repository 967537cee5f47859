"""Some of a corpus's classes: which are meant, and whether its rows have classes at all."""

from collections.abc import Mapping, Sequence

from raydistill.tasks._base import Column


def check_subset(names: Sequence[str]) -> None:
    """Raise ValueError for names of classes that are too few or the same."""
    if len(names) < 2 or len(set(names)) != len(names):
        raise ValueError(f"label_subset is {', '.join(names) or 'empty'}; give two or more different classes, or none")


def classes_of(labels: Sequence[str], subset: Sequence[str], *, corpus: str) -> tuple[str, ...]:
    """Those of a corpus's classes that a subset names, in the corpus's order; all of them for an empty subset.

    ``corpus`` names it in the message. Raises ValueError for a class that it lacks.
    """
    missing = [name for name in subset if name not in labels]
    if missing:
        its = f"its classes are {', '.join(labels)}" if labels else "it has scores"
        raise ValueError(f"label_subset has {missing[0]!r}, which corpus {corpus!r} lacks; {its}")
    return tuple(name for name in labels if name in subset or not subset)


def has_classes(labels: Sequence[str], columns: Mapping[str, Column]) -> bool:
    """Whether rows of a corpus with these names of classes and these columns have a class each."""
    return bool(labels) and columns.get("label") == Column("int64")
