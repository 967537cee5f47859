"""What the methods of dynamic distillation share: weights and objective, and a teacher's logits for chosen rows.

Li et al. 2021, "Dynamic Knowledge Distillation for Pre-trained Language Models", EMNLP; code
lancopku/DynamicKD @ 261162d.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from raydistill.batch import Batch, padded_rows
from raydistill.losses.soft_targets import kl_divergence, squared_error
from raydistill.methods._base import Distiller, check_choice, check_temperature, check_weight, stored_name
from raydistill.user_error import UserError

HEADS = ("sequence_classification",)
"""Heads that the methods train: a row has one prediction, whose uncertainty is the row's."""


@dataclass(frozen=True)
class DynamicConfig:
    """Weights and objective of the soft labels; the defaults are the published ones."""

    kd_alpha: float = 1.0
    """The weight of the soft labels."""
    ce_alpha: float = 1.0
    """The weight of the true labels."""
    objective: str = "mse"
    """How logits are compared: ``mse``, the squared error of raw logits divided by the number of classes, or ``kl``,
    the divergence at ``temperature``, times its square."""
    temperature: float = 5.0
    """For the objective ``kl``: logits are divided by it before the softmax."""

    def __post_init__(self) -> None:
        for key in ("kd_alpha", "ce_alpha"):
            check_weight(key, getattr(self, key))
        check_choice("objective", self.objective, ("mse", "kl"))
        check_temperature("temperature", self.temperature)


def check_distils(config: DynamicConfig) -> None:
    """Raise ValueError if no teacher would be read."""
    if config.kd_alpha == 0:
        raise UserError("kd_alpha is 0, so no teacher is read; raise it, or use method finetune")


def refuse_scores(key: str, value: str, student_config: Any, *, instead: str) -> None:
    """Raise ValueError if an option needs classes and the student has a single output, a regression."""
    if student_config.num_labels == 1:
        raise UserError(f"method.{key} is {value!r}, which needs classes, but labels are scores; set it to {instead}")


def refuse_divergence_of_scores(config: DynamicConfig, student_config: Any) -> None:
    """Raise ValueError for a divergence between distributions over a single output."""
    if config.objective == "kl":
        refuse_scores("objective", "kl", student_config, instead="mse")


def soft_losses(config: DynamicConfig, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """The loss (N,) between logits (N, C) that ``objective`` names."""
    if config.objective == "kl":
        return kl_divergence(student_logits, teacher_logits, temperature=config.temperature)
    return squared_error(student_logits, teacher_logits) / student_logits.shape[-1]


def logits_of_rows(distiller: Distiller[Any], batch: Batch, rows: Tensor, *, number: int = 0) -> Tensor:
    """Logits (K, C) of a teacher for rows (K,) of a batch, without gradient; it runs on these only, unless stored."""
    stored = batch.get(stored_name(number, "logits"))
    if stored is not None:
        return stored.index_select(0, rows)
    return distiller.run_teacher(padded_rows(batch, rows), number=number).logits
