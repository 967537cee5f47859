"""Patient knowledge distillation: soft labels, and the teacher's CLS states on the way to them.

Sun et al. 2019, "Patient Knowledge Distillation for BERT Model Compression", EMNLP, sec. 3; defaults and layers as in
Pea-KD, snudm-starlab/Pea-KD @ 0375288. Tables and formulas: see README.md in this folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.batch import Batch
from raydistill.losses.hidden_states import patience
from raydistill.losses.reduction import mean_over
from raydistill.methods._base import Distiller, Requirements
from raydistill.methods._checks import check_choice, check_weight
from raydistill.methods._patience_layers import TABLES, Layers, check_depth, check_lists, published_layers
from raydistill.methods._soft_labels import SoftLabelConfig, soft_label_denominators, soft_label_loss
from raydistill.methods._teacher_outputs import run_teacher, stored_name
from raydistill.models.layer_plan import num_steps
from raydistill.models.load import head_of
from raydistill.models.predictions import Prediction, predict


@dataclass(frozen=True)
class Config(SoftLabelConfig):
    """Weights, temperature and compared layers; defaults are Pea-KD's."""

    beta: float = 100.0
    """Weight of the distance of CLS states, a mean over their elements too and therefore small."""
    normalize: bool = True
    """Compare states of length 1."""
    table: str = "pea_kd"
    """Published layers to compare, by the depths of the models: ``pea_kd`` or ``pkd``."""
    student_layers: tuple[int, ...] | None = None
    """Student layers to compare in place of the table's, from 0 by their output; with a layer plan in running order."""
    teacher_layers: tuple[int, ...] | None = None
    """Teacher layers that these are compared with, one each, from 0 by their output."""
    projection: bool = False
    """Train a linear map of the student's states to the teacher's width, which widths that differ need."""
    projection_seed: int = 0
    """Where the map's first weights are drawn from."""
    teacher_width: int | None = None
    """Hidden size of the teacher; only a projection with stored teacher outputs has to be told."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("beta", self.beta)
        check_choice("table", self.table, TABLES)
        if self.beta == 0 and (self.projection or self.student_layers or self.teacher_layers):
            raise ValueError("beta is 0, so no layers are compared; raise it, or leave projection and layers out")
        if (self.student_layers is None) != (self.teacher_layers is None):
            missing = "teacher_layers" if self.teacher_layers is None else "student_layers"
            raise ValueError(f"{missing} is missing; give both lists of layers, or neither for the table")
        if self.student_layers is not None and self.teacher_layers is not None:
            check_lists(self.student_layers, self.teacher_layers)

    @property
    def reads_teacher(self) -> bool:
        """Whether any term needs a teacher."""
        return self.alpha > 0 or self.beta > 0

    def layers(self, student_depth: int, teacher_depth: int | None) -> tuple[Layers, Layers]:
        """Compared layers of student and teacher; raises ValueError where the table has none for these depths."""
        if self.student_layers is not None and self.teacher_layers is not None:
            return tuple(self.student_layers), tuple(self.teacher_layers)
        return published_layers(self.table, student_depth, teacher_depth)


class Method(Distiller):
    """The loss of ``kd`` and ``beta * patience``."""

    zero_at_teacher = ("kd",)

    def __init__(self, config: Config, student: nn.Module, teachers: Sequence[nn.Module] = ()) -> None:
        super().__init__(config, student, teachers)
        self.head = head_of(student)
        self.layers: tuple[Layers, Layers] = ((), ())
        self.projection: nn.Linear | None = None
        if config.beta > 0:
            of_teacher: list[Any] = [teacher.config for teacher in self.teachers]
            depth = num_steps(of_teacher[0]) if of_teacher else None
            self.layers = config.layers(num_steps(student.config), depth)
            if config.projection:
                width = of_teacher[0].hidden_size if of_teacher else config.teacher_width
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
            stored=tuple(stored) if knows_widths else (),
            one_at_a_time=True,
            labels=config.alpha < 1,
        )

    @classmethod
    def check(cls, config: Config, student_config: Any, teacher_configs: Sequence[Any]) -> None:
        """Refuse depths without layers to compare, and widths that differ without a projection."""
        if config.beta == 0:
            return
        (teacher_config,) = teacher_configs
        depths = num_steps(student_config), num_steps(teacher_config)
        of_student, of_teacher = config.layers(*depths)
        check_depth("student_layers", of_student, depths[0])
        check_depth("teacher_layers", of_teacher, depths[1])
        widths = student_config.hidden_size, teacher_config.hidden_size
        if not config.projection and widths[0] != widths[1]:
            raise ValueError(
                f"method.projection is false, but the student's hidden_size is {widths[0]} and the teacher's "
                f"{widths[1]}; set it to true"
            )
        if config.teacher_width not in (None, widths[1]):
            raise ValueError(
                f"method.teacher_width is {config.teacher_width}; the teacher's hidden_size is {widths[1]}, write that"
            )

    @classmethod
    def stored_layers(cls, config: Config, student_config: Any, teacher_config: Any) -> tuple[int, ...]:
        """The compared teacher layers: hs[i + 1] is the output of block i."""
        if config.beta == 0:
            return ()
        return tuple(layer + 1 for layer in config.layers(num_steps(student_config), num_steps(teacher_config))[1])

    def denominators(self, batch: Batch) -> dict[str, Tensor]:
        """Number of labels for the terms of ``kd``, number of rows for ``patience``."""
        found = soft_label_denominators(self.config, batch)
        if self.config.beta > 0:
            found["patience"] = batch["row_id"].new_full((), batch.num_rows, dtype=torch.float64)
        return found

    def forward(self, batch: Batch, denominators: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See the base class."""
        said = predict(self.student, batch, head=self.head, with_states=self.config.beta > 0)
        of_teacher, teacher_states = self._teacher(batch)
        loss, terms = soft_label_loss(self.config, batch, denominators, logits=said.logits, of_teacher=of_teacher)
        if teacher_states is not None:
            student_states = _cls_states(said, self.layers[0])
            if self.projection is not None:
                student_states = self.projection(student_states)
            rows = patience(student_states, teacher_states, normalized=self.config.normalize)
            terms["patience"] = mean_over(rows, denominators["patience"].clamp(min=1))
            loss = loss + self.config.beta * terms["patience"]
        return loss, {name: term.detach() for name, term in terms.items()}

    def _teacher(self, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
        """Logits (N, C) and CLS states (B, L, H) of the teacher, each None where it has no weight."""
        logits, states = (batch.get(stored_name(0, kind)) for kind in ("logits", "cls_states"))
        weighted = self.config.alpha > 0, self.config.beta > 0
        if (weighted[0] and logits is None) or (weighted[1] and states is None):
            said = run_teacher(self, batch, with_states=weighted[1])
            logits, states = said.logits, _cls_states(said, self.layers[1]) if weighted[1] else None
        return logits if weighted[0] else None, states if weighted[1] else None


def _cls_states(said: Prediction, layers: Layers) -> Tensor:
    """States (B, L, H) that stand for their rows at the outputs of ``layers``."""
    return torch.stack([said.pooled_states(layer + 1) for layer in layers], dim=1)


def _projection(student: Any, width: int, *, seed: int) -> nn.Linear:
    """A linear map from the student's width, drawn from ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(student.config.hidden_size, width, dtype=student.dtype)
