"""Which of a corpus's classes each model knows, all or a part of them, and whether rows have labels at all."""

from collections.abc import Sequence
from typing import Any

from raydistill.data.labelled import PARTS
from raydistill.models.classes import class_order, known_labels, output_names, with_classes
from raydistill.training.selection import TASK, Criterion

Labels = Sequence[str]


def know_parts(config: Any) -> bool:
    """Whether the teachers of a training may know a part of the classes each."""
    return bool(config.method.requirements.partial_labels)


def names_of(reference: Any, model: Any) -> tuple[str | None, ...]:
    """What a model's outputs stand for as its reference says it, () where it says nothing."""
    return output_names(model, reference.labels)


def known_by(key: str, reference: Any, model: Any, labels: Labels) -> tuple[str, ...]:
    """Those of the classes that a model under ``key`` knows, in their order.

    ``model`` is its configuration. Raises ValueError for one that knows none of them, or others.
    """
    try:
        return known_labels(model, labels, names=names_of(reference, model))
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def check_known(key: str, reference: Any, model: Any, labels: Labels, *, may_know_a_part: bool) -> None:
    """Refuse a model under ``key``, given its configuration, with other classes."""
    part = known_by(key, reference, model, labels) if may_know_a_part else labels
    try:
        class_order(model, part, names=names_of(reference, model))
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def teacher_labels(config: Any, teachers: Sequence[Any], labels: Labels) -> list[tuple[str, ...]]:
    """For each teacher of a training the classes of its logits, given the teachers' configurations."""
    if not know_parts(config):
        return [tuple(labels) for _ in teachers]
    return [
        known_by(f"teachers.{position}", reference, teacher, labels)
        for position, (reference, teacher) in enumerate(zip(config.teachers, teachers, strict=True))
    ]


def as_taught(config: Any, teachers: Sequence[Any], labels: Labels) -> list[Any]:
    """The teachers' configurations with the classes that are read of them, where these may be a part."""
    if not know_parts(config):
        return list(teachers)
    found = teacher_labels(config, teachers, labels)
    return [with_classes(teacher, part) for teacher, part in zip(teachers, found, strict=True)]


def check_taught(config: Any, teachers: Sequence[Any], labels: Labels) -> None:
    """Refuse teachers of parts that were never trained, and classes that none of them knows."""
    if not know_parts(config):
        return
    for position, reference in enumerate(config.teachers):
        if reference.head == "new":
            raise ValueError(
                f"teachers.{position}.head is 'new', but method {config.method.name} learns from what it says alone; "
                "train it first"
            )
    known = {name for part in teacher_labels(config, teachers, labels) for name in part}
    missing = [name for name in labels if name not in known]
    if teachers and missing:
        raise ValueError(
            f"nobody teaches {', '.join(map(repr, missing))}, which the corpus has; add a teacher that knows it, name "
            "its output in labels, or leave the class out with label_subset of the corpus"
        )


def check_labelled(config: Any, corpus: Any, criterion: Criterion) -> None:
    """Refuse a training that reads labels where the corpus, as it is forecast, has none.

    Methods and tasks read them of all rows, the choice of a student those of held-out rows.
    """
    if not corpus.unlabelled:
        return
    method, task = config.method, config.task
    if task.task.NEEDS_STORED:
        raise ValueError(f"task is {task.name!r}, which reads labels, but {_without_labels(config, corpus)}")
    if method.requirements.labels:
        raise ValueError(
            f"method {method.name} with these options reads labels, but {_without_labels(config, corpus)}, or choose "
            "a method that reads none: vkd, uhc, dfa, cfl, muki, or kd with alpha: 1"
        )
    if criterion.key.startswith(TASK) and PARTS[1] in corpus.unlabelled:
        choices = " or ".join(["loss", *method.method.better_when_greater])
        raise ValueError(
            f"training.metric_for_best_model is {config.training.metric_for_best_model!r}, which reads labels, but "
            f"{_without_labels(config, corpus, PARTS[1])}, or write {choices}"
        )


def check_scored(config: Any, corpus: Any) -> None:
    """Refuse to compare models on held-out rows without labels."""
    if PARTS[1] in corpus.unlabelled:
        raise ValueError(
            f"models are compared by their labels, but {_without_labels(config, corpus, PARTS[1])}, or name a corpus "
            "of the same classes that has them"
        )


def _without_labels(config: Any, corpus: Any, part: str = "") -> str:
    """Which rows lack labels, and how they get them."""
    names = ", ".join(repr(reference.corpus) for reference in config.corpus)
    where = part or " and ".join(corpus.unlabelled)
    return f"rows of corpus {names} have none in {where}; binarize with labelled: all"
