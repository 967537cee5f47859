"""Dynamic distillation: the less sure the student is of a row, the smaller the teacher that it learns from.

Li et al. 2021, "Dynamic Knowledge Distillation for Pre-trained Language Models", EMNLP; code
lancopku/DynamicKD @ 261162d. Formulas and deviations: see README.md in this folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, pairwise, takewhile
from typing import Any

import torch
from torch import Tensor

from raydistill.batch import Batch
from raydistill.losses.classification import label_loss
from raydistill.losses.reduction import mean_over
from raydistill.losses.uncertainty import normalized_entropy
from raydistill.methods import _dynamic
from raydistill.methods._base import (
    LABELS,
    Distiller,
    Execution,
    Requirements,
    Term,
    Terms,
    check_choice,
    check_weight,
    label_term,
    stored_name,
)
from raydistill.models.checks import num_parameters
from raydistill.models.predictions import predict
from raydistill.user_error import UserError

MODES = ("hard", "soft", "soft_instance", "static")


@dataclass(frozen=True)
class Config(_dynamic.DynamicConfig):
    """How teachers, the smallest first, share the rows; defaults are as published unless a key says otherwise."""

    mode: str = "hard"
    """``hard``: equal groups of rows, the least certain ones to the smallest teacher. ``soft``: all rows to the two
    teachers next to the micro-batch's mean uncertainty. ``soft_instance``: each row to the two teachers next to its own
    uncertainty. ``static``: all rows to all teachers."""
    teacher_alphas: tuple[float, ...] = ()
    """The weight of each teacher in the modes ``hard`` and ``static``, the smallest teacher first; 1 each if left out.
    The published defaults are 0, and the published runs use 1."""
    detach_weight: bool = False
    """Whether the weights of ``soft`` and ``soft_instance`` carry no gradient; the published ones do."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _dynamic.check_distils(self)
        check_choice("mode", self.mode, MODES)
        for alpha in self.teacher_alphas:
            check_weight("teacher_alphas", alpha)
        if self.teacher_alphas and self.mode.startswith("soft"):
            raise UserError(f"teacher_alphas is given, but mode is {self.mode!r}, which weighs teachers; remove it")
        if self.detach_weight and not self.mode.startswith("soft"):
            raise UserError(f"detach_weight is true, but mode {self.mode!r} has no weights of rows; remove it")
        if len(self.teacher_alphas) == 1:
            raise UserError("teacher_alphas has 1 weight; there are two teachers or more, give one for each")
        if self.teacher_alphas and not any(self.teacher_alphas):
            raise UserError("teacher_alphas are all 0, so no teacher is read; raise one, or use method finetune")


class Method(Distiller[Config]):
    """``ce_alpha * ce + kd_alpha * sum over teachers of their weight times their soft loss``.

    >>> loss, terms = rd.DynamicTeacher().build(student, [teacher, other_teacher])(batch)
    >>> sorted(terms)
    ['ce', 'teacher_0_kd', 'teacher_0_share', 'teacher_1_kd', 'teacher_1_share', 'uncertainty']
    """

    vanishes_for_identical_models = ("teacher_0_kd",)
    directions = {
        **LABELS,
        "teacher_#_kd": False,
        **dict.fromkeys(("teacher_#_share", "uncertainty")),
    }

    @classmethod
    def requirements(cls, config: Config) -> Requirements:
        """Two teachers or more, as many as weights are given; their logits may be stored."""
        given = len(config.teacher_alphas)
        return Requirements(
            min_teachers=given or 2,
            max_teachers=given or None,
            heads=_dynamic.HEADS,
            stored=("logits",),
            execution=Execution(batch_dependent=config.mode in ("hard", "soft"), sequential_teachers=True),
        )

    @classmethod
    def check(cls, config: Config, student_config: Any, teacher_configs: Sequence[Any]) -> None:
        """Refuse teachers that are not in order of size, and a regression where classes are needed."""
        _dynamic.refuse_divergence_of_scores(config, student_config)
        if config.mode != "static":
            _dynamic.refuse_scores("mode", config.mode, student_config, instead="static")
        sizes = [num_parameters(teacher, head=_dynamic.HEADS[0]) for teacher in teacher_configs]
        for number, (size, following) in enumerate(pairwise(sizes)):
            if size > following:
                raise UserError(
                    f"teachers.{number} has {size:,} parameters, teachers.{number + 1} {following:,}; "
                    "list them in order of size, the smallest first"
                )

    def _num_teachers(self, batch: Batch) -> int:
        if self.teachers:
            return len(self.teachers)
        return len(list(takewhile(lambda number: stored_name(number, "logits") in batch, count())))

    def _alphas(self, batch: Batch) -> dict[int, float]:
        """The weight of each teacher that is read, by its number."""
        alphas = self.config.teacher_alphas or (1.0,) * self._num_teachers(batch)
        return {number: alpha for number, alpha in enumerate(alphas) if alpha > 0}

    def terms(self, batch: Batch) -> dict[str, Term]:
        """Means over rows, in mode ``hard`` over the rows of a teacher's group.

        Besides the losses, how uncertain the student is and which fraction of the rows, or weight, each teacher has.
        """
        rows, mode = batch.num_rows, self.config.mode
        found = {label_term(batch): Term(rows, self.config.ce_alpha)}
        groups = _groups(rows, self._num_teachers(batch))
        for number in self._alphas(batch):
            found[f"teacher_{number}_kd"] = Term(len(groups[number]) if mode == "hard" else rows)
            if mode != "static":
                found[f"teacher_{number}_share"] = Term(rows)
        return found if mode == "static" else {**found, "uncertainty": Term(rows)}

    def add_terms(self, terms: Terms, batch: Batch) -> None:
        """See the base class."""
        logits = predict(self.student, batch, head=self.head).logits
        terms.add(label_term(batch), label_loss(logits, batch["labels"]))
        distil = {"static": self._static, "hard": self._hard}.get(self.config.mode, self._soft)
        soft_losses = distil(logits, batch, terms)
        terms.add_loss(self.config.kd_alpha * torch.stack(soft_losses).sum())

    def _static(self, logits: Tensor, batch: Batch, terms: Terms) -> list[Tensor]:
        found = []
        for number, alpha in self._alphas(batch).items():
            losses = _dynamic.soft_losses(self.config, logits, self.teacher_logits(batch, number=number))
            found.append(alpha * terms.log(f"teacher_{number}_kd", losses))
        return found

    def _hard(self, logits: Tensor, batch: Batch, terms: Terms) -> list[Tensor]:
        uncertainty = normalized_entropy(logits.detach())
        order = torch.argsort(uncertainty, descending=True, stable=True)
        groups, found = _groups(batch.num_rows, self._num_teachers(batch)), []
        for number, alpha in self._alphas(batch).items():
            group = groups[number]
            # A teacher without rows runs too: where it is sharded, other ranks wait for this one.
            rows = order[group.start : group.stop] if group else order[:1]
            teacher_logits = _dynamic.logits_of_rows(self, batch, rows, number=number)
            losses = _dynamic.soft_losses(self.config, logits.index_select(0, rows), teacher_logits)[: len(group)]
            found.append(alpha * terms.log(f"teacher_{number}_kd", losses))
            share = f"teacher_{number}_share"
            terms.record(share, len(group) / terms.denominators[share])
        terms.log("uncertainty", uncertainty)
        return found

    def _soft(self, logits: Tensor, batch: Batch, terms: Terms) -> list[Tensor]:
        uncertainty = normalized_entropy(logits.detach() if self.config.detach_weight else logits)
        num_teachers = self._num_teachers(batch)
        position = uncertainty.mean().expand_as(uncertainty) if self.config.mode == "soft" else uncertainty
        weights, found = interpolation(position, num_teachers), []
        for number in range(num_teachers):
            name = f"teacher_{number}_kd"
            losses = _dynamic.soft_losses(self.config, logits, self.teacher_logits(batch, number=number))
            found.append(mean_over(weights[:, number] * losses, terms.denominators[name]))
            terms.log(name, losses)
            terms.log(f"teacher_{number}_share", weights[:, number])
        terms.log("uncertainty", uncertainty)
        return found


def interpolation(uncertainty: Tensor, num_teachers: int) -> Tensor:
    """Weights of teachers, the smallest first, given uncertainties in [0, 1]: 0 is the largest teacher, 1 the smallest.

    Shapes: (B,); returns (B, num_teachers), rows that sum to 1 with at most two neighbours that are not 0. With two
    teachers the weight of the smaller is the uncertainty itself.
    """
    place = torch.arange(num_teachers - 1, -1, -1, device=uncertainty.device)
    distance = uncertainty[:, None] * (num_teachers - 1) - place
    return (1 - distance.abs()).clamp(min=0)


def _groups(num_rows: int, num_teachers: int) -> list[range]:
    """Ranks of each teacher's rows, the least certain first; sizes differ by at most one, the last has most."""
    bounds = [num_rows * number // num_teachers for number in range(num_teachers + 1)]
    return [range(*bound) for bound in pairwise(bounds)]
