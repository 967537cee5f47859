"""Patient knowledge distillation: soft labels, and the teacher's CLS states on the way to them.

Sun et al. 2019, "Patient Knowledge Distillation for BERT Model Compression", EMNLP, sec. 3; layers and ``beta`` as in
Pea-KD, snudm-starlab/Pea-KD @ 0375288. Tables and formulas: see README.md in this folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.batch import Batch
from raydistill.losses.hidden_states import pkd_loss
from raydistill.methods import kd
from raydistill.methods._base import (
    LABELS,
    Distiller,
    Execution,
    Requirements,
    Term,
    Terms,
    check_choice,
    check_weight,
    stored_name,
)
from raydistill.models.layer_plan import num_steps
from raydistill.models.predictions import Prediction, predict
from raydistill.user_error import UserError

Layers = tuple[int, ...]
"""Numbers of layers, from 0 by their output: layer i is the output of block i."""

_FIRST_11 = tuple(range(11))

TABLES: dict[str, dict[tuple[int, int], tuple[Layers, Layers]]] = {
    # Pea-KD: a student's depth includes its layer plan, so 6 is a plain student of 6 blocks or SPS of 3, 9 is SPS of
    # 6, 12 is the stochastic plan of 6. Its code reads the table on GPUs only; here it depends only on depths.
    "pea_kd": {
        (2, 12): ((0,), (5,)),
        (3, 12): ((0, 1), (3, 7)),
        (4, 12): ((0, 1, 2), (2, 5, 8)),
        (6, 12): ((0, 1, 2, 3, 4), (1, 3, 5, 7, 9)),
        (9, 12): ((2, 5), (3, 7)),
        (12, 12): (_FIRST_11, _FIRST_11),
    },
    # Patient KD. For teachers with 24 layers its code stores five and numbers those; here are the layers themselves.
    "pkd": {
        (6, 12): ((0, 1, 2, 3, 4), (1, 3, 5, 7, 9)),
        (3, 12): ((0, 1), (9, 10)),
        (6, 24): ((0, 1, 2, 3, 4), (3, 7, 11, 15, 19)),
        (3, 24): ((0, 1), (7, 15)),
    },
}
"""Published student and teacher layers, by the table's name and by the depths of student and teacher."""


@dataclass(frozen=True)
class Config(kd.SoftLabels):
    """Weights, temperature and compared layers."""

    beta: float = 100.0
    """The weight of the distance of CLS states, as in Pea-KD. It is large because the distance is a mean over their
    elements too."""
    normalize: bool = True
    """Whether states are divided by their norm before they are compared."""
    table: str = "pea_kd"
    """The published layers to compare, chosen by the depths of the models: ``pea_kd`` or ``pkd``."""
    student_layers: tuple[int, ...] | None = None
    """The student's layers to compare in place of the table's, from 0 by their output; with a layer plan, in running
    order."""
    teacher_layers: tuple[int, ...] | None = None
    """The teacher's layers to compare them with, one for each, from 0 by their output."""
    projection: bool = False
    """Whether to train a linear map from the student's hidden size to the teacher's; needed where they differ."""
    projection_seed: int = 0
    """The seed of the map's initial weights."""
    teacher_width: int | None = None
    """The hidden size of the teacher; needed only for a projection with stored teacher outputs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("beta", self.beta)
        check_choice("table", self.table, TABLES)
        if self.beta == 0 and (self.projection or self.student_layers or self.teacher_layers):
            raise UserError("beta is 0, so no layers are compared; raise it, or leave projection and layers out")
        if (self.student_layers is None) != (self.teacher_layers is None):
            missing = "teacher_layers" if self.teacher_layers is None else "student_layers"
            raise UserError(f"{missing} is missing; give both lists of layers, or neither for the table")
        if self.student_layers is not None and self.teacher_layers is not None:
            _check_lists(self.student_layers, self.teacher_layers)

    @property
    def reads_teacher(self) -> bool:
        """Whether any term needs a teacher."""
        return self.alpha > 0 or self.beta > 0

    def layers(self, student_depth: int, teacher_depth: int | None) -> tuple[Layers, Layers]:
        """Compared layers of student and teacher; raises ValueError where the table has none for these depths."""
        if self.student_layers is not None and self.teacher_layers is not None:
            return tuple(self.student_layers), tuple(self.teacher_layers)
        return published_layers(self.table, student_depth, teacher_depth)


class Method(Distiller[Config]):
    """The loss of ``kd`` and ``beta * pkd``.

    >>> loss, terms = rd.PatientKD(student_layers=[0], teacher_layers=[1]).build(student, [teacher])(batch)
    >>> sorted(terms)
    ['ce', 'kd', 'pkd']
    """

    vanishes_for_identical_models = ("kd",)
    directions = {**LABELS, "kd": False, "pkd": False}

    def __init__(self, config: Config, student: nn.Module, teachers: Sequence[nn.Module] = ()) -> None:
        super().__init__(config, student, teachers)
        self.layers: tuple[Layers, Layers] = ((), ())
        self.projection: nn.Linear | None = None
        if config.beta > 0:
            teacher_config: Any = self.teachers[0].config if self.teachers else None
            depth = num_steps(teacher_config) if teacher_config else None
            self.layers = config.layers(num_steps(student.config), depth)
            if config.projection:
                width = teacher_config.hidden_size if teacher_config else config.teacher_width
                assert width is not None, "preflight refuses stored outputs without teacher_width"
                self.projection = _projection(student, width, seed=config.projection_seed)

    @classmethod
    def requirements(cls, config: Config) -> Requirements:
        """One teacher; its logits and CLS states may be stored, once the width of a projection is known."""
        needed = 1 if config.reads_teacher else 0
        stored = [*(["logits"] if config.alpha > 0 else []), *(["cls_states"] if config.beta > 0 else [])]
        knows_widths = config.beta == 0 or not config.projection or config.teacher_width is not None
        return Requirements(
            min_teachers=needed,
            max_teachers=needed,
            heads=("sequence_classification",),
            needs=("logits", "pooled", "all_states") if config.beta > 0 else ("logits",),
            stored=tuple(stored) if knows_widths else (),
            labels=config.alpha < 1,
            execution=Execution(sequential_teachers=True),
        )

    @classmethod
    def check(cls, config: Config, student_config: Any, teacher_configs: Sequence[Any]) -> None:
        """Refuse depths without layers to compare, and hidden sizes that differ without a projection."""
        if config.beta == 0:
            return
        (teacher_config,) = teacher_configs
        depths = num_steps(student_config), num_steps(teacher_config)
        student_layers, teacher_layers = config.layers(*depths)
        _check_depth("student_layers", student_layers, depths[0])
        _check_depth("teacher_layers", teacher_layers, depths[1])
        widths = student_config.hidden_size, teacher_config.hidden_size
        if not config.projection and widths[0] != widths[1]:
            raise UserError(
                f"method.projection is false, but the student's hidden_size is {widths[0]} and the teacher's "
                f"{widths[1]}; set it to true"
            )
        if config.teacher_width not in (None, widths[1]):
            raise UserError(
                f"method.teacher_width is {config.teacher_width}; the teacher's hidden_size is {widths[1]}, write that"
            )

    @classmethod
    def stored_layers(cls, config: Config, student_config: Any, teacher_config: Any) -> tuple[int, ...]:
        """The compared teacher layers: hs[i + 1] is the output of block i."""
        if config.beta == 0:
            return ()
        return tuple(layer + 1 for layer in config.layers(num_steps(student_config), num_steps(teacher_config))[1])

    def terms(self, batch: Batch) -> dict[str, Term]:
        """Means over labels for the terms of ``kd``, over rows for ``pkd``."""
        found = kd.soft_label_terms(self.config, batch)
        return {**found, "pkd": Term(batch.num_rows, self.config.beta)} if self.config.beta > 0 else found

    def add_terms(self, terms: Terms, batch: Batch) -> None:
        """See the base class."""
        student = predict(self.student, batch, head=self.head, with_states=self.config.beta > 0)
        teacher_logits, teacher_states = self._teacher_outputs(batch)
        kd.add_soft_labels(terms, self.config, batch, student.logits, teacher_logits)
        if teacher_states is not None:
            student_states = _cls_states(student, self.layers[0])
            if self.projection is not None:
                student_states = self.projection(student_states)
            terms.add("pkd", pkd_loss(student_states, teacher_states, normalized=self.config.normalize))

    def _teacher_outputs(self, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
        """Logits (N, C) and CLS states (B, L, H) of the teacher, each None where it has no weight."""
        logits, states = (batch.get(stored_name(0, kind)) for kind in ("logits", "cls_states"))
        weighted = self.config.alpha > 0, self.config.beta > 0
        if (weighted[0] and logits is None) or (weighted[1] and states is None):
            teacher = self.run_teacher(batch, with_states=weighted[1])
            logits, states = teacher.logits, _cls_states(teacher, self.layers[1]) if weighted[1] else None
        return logits if weighted[0] else None, states if weighted[1] else None


def published_layers(table: str, student_depth: int, teacher_depth: int | None) -> tuple[Layers, Layers]:
    """The compared layers of student and teacher; without the teacher's depth, those for a teacher of any depth.

    Raises ValueError naming the depths that the table has.
    """
    entries = TABLES[table]
    for (student, teacher), layers in entries.items():
        if student == student_depth and teacher_depth in (None, teacher):
            return layers
    known = ", ".join(f"{student} and {teacher}" for student, teacher in entries)
    hint = "; a student of one layer has none to compare, use method kd" if student_depth == 1 else ""
    raise UserError(
        f"method.table is {table!r}, which has no layers for a student of {student_depth} and a teacher of "
        f"{teacher_depth} layers, only for {known}; give method.student_layers and method.teacher_layers{hint}"
    )


def _check_lists(student_layers: Sequence[int], teacher_layers: Sequence[int]) -> None:
    """Raise ValueError for lists that do not pair layers."""
    if len(student_layers) != len(teacher_layers):
        raise UserError(
            f"student_layers has {len(student_layers)} layers, teacher_layers {len(teacher_layers)}; give equally many"
        )
    if not student_layers:
        raise UserError("student_layers is empty; name at least one layer, or leave both lists out to use the table")
    for key, layers in (("student_layers", student_layers), ("teacher_layers", teacher_layers)):
        if min(layers) < 0:
            raise UserError(f"{key} has {min(layers)}; layers are numbered from 0")


def _check_depth(key: str, layers: Sequence[int], depth: int) -> None:
    """Raise ValueError for a layer that a model of ``depth`` layers lacks."""
    if max(layers) >= depth:
        raise UserError(f"method.{key} has {max(layers)}; the model has layers 0 to {depth - 1}")


def _cls_states(prediction: Prediction, layers: Layers) -> Tensor:
    """States (B, L, H) that stand for their rows at the outputs of ``layers``."""
    return torch.stack([prediction.pooled_states(layer + 1) for layer in layers], dim=1)


def _projection(student: Any, width: int, *, seed: int) -> nn.Linear:
    """A linear map from the student's hidden size, drawn from ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(student.config.hidden_size, width, dtype=student.dtype)
