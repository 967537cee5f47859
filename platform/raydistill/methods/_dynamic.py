"""What the methods of dynamic distillation share: weights and objective, and a teacher's logits of chosen rows.

Li et al. 2021, "Dynamic Knowledge Distillation for Pre-trained Language Models", EMNLP; code
lancopku/DynamicKD @ 261162d.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from raydistill.batch import Batch
from raydistill.losses.soft_targets import kl_divergence, squared_error
from raydistill.methods._base import Distiller
from raydistill.methods._teacher_outputs import run_teacher, stored_name

HEADS = ("sequence_classification",)
"""Heads that the methods train: a row has one prediction, whose uncertainty is that of the row."""

RowLosses = Callable[[Tensor, Tensor], Tensor]
"""Student and teacher logits (N, C) to a loss (N,)."""


@dataclass(frozen=True)
class DynamicConfig:
    """Weights and objective of the soft labels; defaults are the published ones."""

    kd_alpha: float = 1.0
    """Weight of the soft labels."""
    ce_alpha: float = 1.0
    """Weight of the true labels."""
    objective: str = "mse"
    """How logits are compared: ``mse``, the squared error of raw logits over the number of classes, or ``kl``, the
    divergence at ``temperature`` times its square."""
    temperature: float = 5.0
    """Logits are divided by it before the softmax of objective ``kl``."""

    def __post_init__(self) -> None:
        for key in ("kd_alpha", "ce_alpha"):
            check_weight(key, getattr(self, key))
        check_choice("objective", self.objective, ("mse", "kl"))
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; it must be positive and finite")


def check_weight(key: str, value: float) -> None:
    """Raise ValueError for a weight that is negative or no number."""
    if not 0 <= value < float("inf"):
        raise ValueError(f"{key} is {value}; a weight must be a number that is not negative")


def check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError for a value that is none of the choices."""
    if value not in choices:
        raise ValueError(f"{key} is {value!r}; choices: {', '.join(choices)}")


def check_distils(config: DynamicConfig) -> None:
    """Raise ValueError where no teacher would be read."""
    if config.kd_alpha == 0:
        raise ValueError("kd_alpha is 0, so no teacher is read; raise it, or use method finetune")


def refuse_scores(key: str, value: str, student_config: Any, *, instead: str) -> None:
    """Raise ValueError for an option that needs classes, and a student with a single output, a score."""
    if student_config.num_labels == 1:
        raise ValueError(f"method.{key} is {value!r}, which needs classes, but labels are scores; set it to {instead}")


def refuse_divergence_of_scores(config: DynamicConfig, student_config: Any) -> None:
    """Raise ValueError for a divergence of distributions over a single output."""
    if config.objective == "kl":
        refuse_scores("objective", "kl", student_config, instead="mse")


def row_losses(config: DynamicConfig) -> RowLosses:
    """The loss between student and teacher logits that a configuration names."""
    if config.objective == "kl":
        return partial(kl_divergence, temperature=config.temperature)
    return _mean_squared_error


def _mean_squared_error(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    return squared_error(student_logits, teacher_logits) / student_logits.shape[-1]


def row_count(batch: Batch) -> Tensor:
    """Number of rows, 0-d float64 on the batch's device."""
    return count_of(batch, batch.num_rows)


def count_of(batch: Batch, number: int) -> Tensor:
    """A number that the host knows, 0-d float64 on the batch's device."""
    return batch["row_id"].new_full((), number, dtype=torch.float64)


def logits_of_rows(distiller: Distiller, batch: Batch, rows: Tensor, *, number: int = 0) -> Tensor:
    """Logits (K, C) of a teacher for rows (K,) of a batch, without gradient; it runs on these alone, unless stored."""
    stored = batch.get(stored_name(number, "logits"))
    if stored is not None:
        return stored.index_select(0, rows)
    return run_teacher(distiller, padded_rows(batch, rows), number=number).logits


def padded_rows(batch: Batch, rows: Tensor | None = None) -> Batch:
    """Rows (K,) of a batch, all by default, with all their places, so that models compute padding too.

    Has what a sequence classifier reads. How many real tokens chosen rows have, the host could tell only by waiting for
    the device; padding changes no logits.
    """
    mask = batch["attention_mask"]
    columns = {name: batch[name] for name in ("row_id", "input_ids", "attention_mask", "lengths")}
    token_types = batch.get("token_types")
    if token_types is not None:
        places = token_types.new_zeros(mask.numel()).index_copy(0, batch["token_index"], token_types)
        columns["token_types"] = places.view(mask.shape)
    if rows is not None:
        columns = {name: column.index_select(0, rows) for name, column in columns.items()}
    if token_types is not None:
        columns["token_types"] = columns["token_types"].flatten()
    columns["token_index"] = torch.arange(columns["input_ids"].numel(), device=mask.device)
    return Batch(columns, seed=batch.seed, epoch=batch.epoch, step=batch.step, micro_batch=batch.micro_batch)
