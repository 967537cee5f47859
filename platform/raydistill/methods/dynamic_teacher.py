"""Dynamic distillation: the less sure the student is of a row, the smaller the teacher that it learns it from.

Li et al. 2021, "Dynamic Knowledge Distillation for Pre-trained Language Models", EMNLP; code
lancopku/DynamicKD @ 261162d. Formulas and deviations: see README.md in this folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, pairwise, takewhile
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.batch import Batch
from raydistill.losses.classification import label_loss
from raydistill.losses.reduction import mean_over
from raydistill.losses.uncertainty import normalized_entropy
from raydistill.methods import _dynamic
from raydistill.methods._base import Distiller, Requirements, count_of, label_term, row_count
from raydistill.methods._checks import check_choice, check_weight
from raydistill.methods._teacher_outputs import stored_name, teacher_logits
from raydistill.models.checks import num_parameters
from raydistill.models.load import head_of
from raydistill.models.predictions import predict

MODES = ("hard", "soft", "soft_instance", "static")

Terms = dict[str, Tensor]


@dataclass(frozen=True)
class Config(_dynamic.DynamicConfig):
    """How teachers, the smallest first, share the rows; defaults are the published ones unless a key says otherwise."""

    mode: str = "hard"
    """``hard``: equal groups of rows, the least certain to the smallest teacher. ``soft``: all rows to the two teachers
    next to the micro-batch's mean uncertainty, ``soft_instance`` to those next to the row's own. ``static``: all rows
    to all teachers."""
    teacher_alphas: tuple[float, ...] = ()
    """Weight of each teacher in modes ``hard`` and ``static``, the smallest first; without them 1 each. Published
    defaults are 0, published runs use 1."""
    detach_weight: bool = False
    """Whether the weights of ``soft`` and ``soft_instance`` have no gradient; published ones have."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _dynamic.check_distils(self)
        check_choice("mode", self.mode, MODES)
        for alpha in self.teacher_alphas:
            check_weight("teacher_alphas", alpha)
        if self.teacher_alphas and self.mode.startswith("soft"):
            raise ValueError(f"teacher_alphas is given, but mode is {self.mode!r}, which weighs teachers; remove it")
        if self.detach_weight and not self.mode.startswith("soft"):
            raise ValueError(f"detach_weight is true, but mode {self.mode!r} has no weights of rows; remove it")
        if len(self.teacher_alphas) == 1:
            raise ValueError("teacher_alphas has 1 weight; there are two teachers or more, give one for each")
        if self.teacher_alphas and not any(self.teacher_alphas):
            raise ValueError("teacher_alphas are all 0, so no teacher is read; raise one, or use method finetune")


class Method(Distiller):
    """``ce_alpha * ce + kd_alpha * sum over teachers of their weight times their soft loss``."""

    zero_at_teacher = ("teacher_0_kd",)

    def __init__(self, config: Config, student: nn.Module, teachers: Sequence[nn.Module] = ()) -> None:
        super().__init__(config, student, teachers)
        self.head = head_of(student)
        self._losses = _dynamic.row_losses(config)

    @classmethod
    def requirements(cls, config: Config) -> Requirements:
        """Two teachers or more, as many as weights are given; their logits may be stored."""
        given = len(config.teacher_alphas)
        return Requirements(
            min_teachers=given or 2,
            max_teachers=given or None,
            row_coupled=config.mode in ("hard", "soft"),
            heads=_dynamic.HEADS,
            stored=("logits",),
            one_at_a_time=True,
        )

    @classmethod
    def check(cls, config: Config, student_config: Any, teacher_configs: Sequence[Any]) -> None:
        """Refuse teachers that are not in order of size, and scores where classes are needed."""
        _dynamic.refuse_divergence_of_scores(config, student_config)
        if config.mode != "static":
            _dynamic.refuse_scores("mode", config.mode, student_config, instead="static")
        sizes = [num_parameters(teacher, head=_dynamic.HEADS[0]) for teacher in teacher_configs]
        for number, (size, following) in enumerate(pairwise(sizes)):
            if size > following:
                raise ValueError(
                    f"teachers.{number} has {size:,} parameters, teachers.{number + 1} {following:,}; "
                    "list them in order of size, the smallest first"
                )

    def _num_teachers(self, batch: Batch) -> int:
        if self.teachers:
            return len(self.teachers)
        return len(list(takewhile(lambda number: stored_name(number, "logits") in batch, count())))

    def _alphas(self, batch: Batch) -> dict[int, float]:
        """Weight of each teacher that is read, by its number."""
        alphas = self.config.teacher_alphas or (1.0,) * self._num_teachers(batch)
        return {number: alpha for number, alpha in enumerate(alphas) if alpha > 0}

    def denominators(self, batch: Batch) -> dict[str, Tensor]:
        """Rows; of a teacher in mode ``hard`` those of its group."""
        rows = row_count(batch)
        found = {label_term(batch): rows}
        groups = _groups(batch.num_rows, self._num_teachers(batch))
        for number in self._alphas(batch):
            size = count_of(batch, len(groups[number])) if self.config.mode == "hard" else rows
            found[f"teacher_{number}_kd"] = size
            if self.config.mode != "static":
                found[f"teacher_{number}_share"] = rows
        return found if self.config.mode == "static" else {**found, "uncertainty": rows}

    def forward(self, batch: Batch, denominators: dict[str, Tensor]) -> tuple[Tensor, Terms]:
        """See the base class; besides the losses, how unsure the student is and what share of it each teacher gets."""
        counts = {name: count.clamp(min=1) for name, count in denominators.items()}
        logits = predict(self.student, batch, head=self.head).logits
        label = label_term(batch)
        terms = {label: mean_over(label_loss(logits, batch["labels"]), counts[label])}
        distil = {"static": self._static, "hard": self._hard}.get(self.config.mode, self._soft)
        soft_loss, of_teachers = distil(logits, batch, counts)
        loss = self.config.ce_alpha * terms[label] + self.config.kd_alpha * soft_loss
        return loss, {name: term.detach() for name, term in {**terms, **of_teachers}.items()}

    def _static(self, logits: Tensor, batch: Batch, counts: Terms) -> tuple[Tensor, Terms]:
        alphas, terms = self._alphas(batch), {}
        for number in alphas:
            name = f"teacher_{number}_kd"
            terms[name] = mean_over(self._losses(logits, teacher_logits(self, batch, number=number)), counts[name])
        return _weighted(alphas, terms), terms

    def _hard(self, logits: Tensor, batch: Batch, counts: Terms) -> tuple[Tensor, Terms]:
        uncertainty = normalized_entropy(logits.detach())
        order = torch.argsort(uncertainty, descending=True, stable=True)
        groups = _groups(batch.num_rows, self._num_teachers(batch))
        alphas, terms = self._alphas(batch), {}
        for number in alphas:
            group = groups[number]
            # A teacher without rows runs too: where it is sharded, other ranks wait for this one.
            rows = order[group.start : group.stop] if group else order[:1]
            of_teacher = _dynamic.logits_of_rows(self, batch, rows, number=number)
            losses = self._losses(logits.index_select(0, rows), of_teacher)[: len(group)]
            terms[f"teacher_{number}_kd"] = mean_over(losses, counts[f"teacher_{number}_kd"])
        loss = _weighted(alphas, terms)
        for number in alphas:
            terms[f"teacher_{number}_share"] = len(groups[number]) / counts[f"teacher_{number}_share"]
        return loss, {**terms, "uncertainty": mean_over(uncertainty, counts["uncertainty"])}

    def _soft(self, logits: Tensor, batch: Batch, counts: Terms) -> tuple[Tensor, Terms]:
        uncertainty = normalized_entropy(logits.detach() if self.config.detach_weight else logits)
        num_teachers = self._num_teachers(batch)
        position = uncertainty.mean().expand_as(uncertainty) if self.config.mode == "soft" else uncertainty
        weights = interpolation(position, num_teachers)
        loss, terms = logits.new_zeros((), dtype=weights.dtype), {}
        for number in range(num_teachers):
            losses = self._losses(logits, teacher_logits(self, batch, number=number))
            total = counts[f"teacher_{number}_kd"]
            loss = loss + mean_over(weights[:, number] * losses, total)
            terms[f"teacher_{number}_kd"] = mean_over(losses, total)
            terms[f"teacher_{number}_share"] = mean_over(weights[:, number], counts[f"teacher_{number}_share"])
        return loss, {**terms, "uncertainty": mean_over(uncertainty, counts["uncertainty"])}


def interpolation(uncertainty: Tensor, num_teachers: int) -> Tensor:
    """Weights of teachers, the smallest first, for uncertainties in [0, 1], which run from the largest to the smallest.

    Shapes: (B,); returns (B, num_teachers), rows that sum to 1, of which two neighbours at most are not 0. Of two
    teachers the smaller has the uncertainty itself.
    """
    place = torch.arange(num_teachers - 1, -1, -1, device=uncertainty.device)
    distance = uncertainty[:, None] * (num_teachers - 1) - place
    return (1 - distance.abs()).clamp(min=0)


def _groups(num_rows: int, num_teachers: int) -> list[range]:
    """Ranks of the rows, the least certain first, that each teacher has; sizes differ by one, the largest has more."""
    bounds = [num_rows * number // num_teachers for number in range(num_teachers + 1)]
    return [range(*bound) for bound in pairwise(bounds)]


def _weighted(alphas: dict[int, float], terms: Terms) -> Tensor:
    return torch.stack([alpha * terms[f"teacher_{number}_kd"] for number, alpha in alphas.items()]).sum()
