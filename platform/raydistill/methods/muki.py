"""MUKI: one target over all classes from the confident teachers, and row weights from the confidence margin.

Li et al. 2022, "From Mimicking to Integrating: Knowledge Integration for Pre-Trained Language Models", Findings of
EMNLP; code lancopku/MUKI @ 703fd17. Formulas and deviations: see README.md in this folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raydistill.batch import Batch, encoded_as
from raydistill.losses.integrated_targets import agreement, hard_choice, mixed_target, score_margin, soft_choice
from raydistill.methods import _integration
from raydistill.methods._base import Distiller, Requirements, Term, Terms, check_choice, check_temperature, stored_name
from raydistill.models.dropout_scores import dropout_scores, has_dropout, pass_seeds, single_pass_scores
from raydistill.models.load import head_of
from raydistill.models.offloading import weights_present
from raydistill.models.predictions import predict
from raydistill.user_error import UserError

DROPOUT_SCORES = "dropout_scores"
"""Kind of teacher outputs that holds scores from passes with dropout."""


@dataclass(frozen=True)
class Config:
    """How teachers are scored and chosen; defaults are those of the published script unless a key says otherwise.

    ``kd_alpha`` was published as ``vkd_weight``; the loss is not multiplied by the squared temperature.
    """

    kd_alpha: float = 1.0
    """The weight of the soft labels."""
    temperature: float = 1.0
    """Logits are divided by it before the softmax."""
    scores: str = "single_pass"
    """How sure a teacher is of a row, 1 minus the normalized entropy of its classes. ``single_pass`` takes the soft
    labels themselves, at ``temperature``. ``dropout`` takes the mean of ``dropout_passes`` passes with dropout, at
    temperature 1, live or stored. Published runs take the latter from a file that was made without any dropout."""
    dropout_passes: int = 16
    """For ``dropout``: the number of passes of each teacher, live or where the training stores them itself. A capture
    stage has its own number."""
    dropout_seed: int | None = None
    """For ``dropout``: the seed of these passes; by default the stage's seed, and 0 where they are stored."""
    teacher_dropout: float | None = None
    """For ``dropout``: the dropout rate of the teachers in these passes; None keeps that of their checkpoints."""
    teacher_choice: str = "soft"
    """``soft``: the targets of all teachers, weighted by their scores. ``hard``: the target of the teacher with the
    highest score."""
    margin_reweighting: bool = True
    """Whether a row is weighted by the difference between its two highest scores, which takes two teachers."""
    teacher_score_temperature: float = 0.2
    """For ``soft``: scores are divided by it before the softmax that weights the teachers."""

    def __post_init__(self) -> None:
        _integration.check_soft_labels(self.kd_alpha, self.temperature)
        check_choice("scores", self.scores, ("single_pass", "dropout"))
        if self.dropout_passes < 2:
            raise UserError(f"dropout_passes is {self.dropout_passes}; a mean needs at least 2")
        if self.teacher_dropout is not None and not 0 < self.teacher_dropout < 1:
            raise UserError(f"teacher_dropout is {self.teacher_dropout}; it must be between 0 and 1, or null")
        for key in ("dropout_seed", "teacher_dropout"):
            if self.scores == "single_pass" and getattr(self, key) is not None:
                raise UserError(
                    f"{key} is {getattr(self, key)}, but scores is 'single_pass', which drops nothing; remove it, or "
                    "write scores: dropout"
                )
        check_choice("teacher_choice", self.teacher_choice, ("soft", "hard"))
        check_temperature("teacher_score_temperature", self.teacher_score_temperature)


class Method(_integration.IntegrationDistiller[Config]):
    """``kd_alpha * kd``, the divergence of the student from the integrated target, which has no gradient.

    >>> loss, terms = rd.Muki().build(student, [teacher, other_teacher])(batch)
    >>> sorted(terms)
    ['agreement', 'kd', 'margin', 'teacher_0_score', 'teacher_0_share', 'teacher_1_score', 'teacher_1_share']
    """

    directions = {
        "kd": False,
        "agreement": True,
        **dict.fromkeys(("margin", "teacher_#_score", "teacher_#_share")),
    }

    @classmethod
    def requirements(cls, config: Config) -> Requirements:
        """Any number of teachers; their logits may be stored, and scores from passes with dropout.

        The dropout of live passes is drawn for a whole micro-batch, so a row's scores depend on it.
        """
        if config.scores == "single_pass":
            return _integration.reads_outputs("logits")
        return _integration.reads_outputs("logits", DROPOUT_SCORES, batch_dependent_when_live=True)

    @classmethod
    def check(cls, config: Config, student_config: Any, teacher_configs: Sequence[Any]) -> None:
        """Refuse a regression, a single teacher where two are compared, and teachers that have no scores."""
        _integration.refuse_regression(student_config)
        check_scores(teacher_configs)
        if config.margin_reweighting and len(teacher_configs) < 2:
            raise UserError(
                f"method.margin_reweighting is true, which compares two teachers, but teachers has "
                f"{len(teacher_configs)}; add one, or set it to false"
            )

    @classmethod
    def check_running(cls, config: Config, teacher_configs: Sequence[Any]) -> None:
        """Refuse teachers without dropout where passes with it are asked for."""
        check_dropping(config, teacher_configs)

    def terms(self, batch: Batch) -> dict[str, Term]:
        """Means over rows; besides ``kd``, which has the rows' weights, what decided the target."""
        rows, numbers = Term(batch.num_rows), range(self.classes.num_teachers)
        found = {"kd": Term(batch.num_rows, self.config.kd_alpha), "agreement": rows}
        found |= {f"teacher_{number}_{kind}": rows for number in numbers for kind in ("score", "share")}
        return {**found, "margin": rows} if self.config.margin_reweighting else found

    def add_terms(self, terms: Terms, batch: Batch) -> None:
        """See the base class."""
        config = self.config
        logits = predict(self.student, batch, head=self.head).logits
        teacher_logits = self.classes.logits(self, batch)
        scores = teacher_scores(self, batch, config, teacher_logits)
        weights = self._teacher_weights(scores)
        target = mixed_target(
            teacher_logits, self.classes.ids, self.classes.num_classes, weights=weights, temperature=config.temperature
        )
        rows = _integration.divergence(logits, target, temperature=config.temperature)
        if config.margin_reweighting:
            margin = score_margin(scores)
            terms.log("margin", margin)
            rows = margin * rows
        terms.add("kd", rows)
        terms.add("agreement", agreement(logits, target))
        for number in range(self.classes.num_teachers):
            terms.log(f"teacher_{number}_score", scores[:, number])
            terms.log(f"teacher_{number}_share", weights[:, number])

    def _teacher_weights(self, scores: Tensor) -> Tensor:
        """Weights (B, teachers) of the teachers' targets."""
        if self.config.teacher_choice == "hard":
            return hard_choice(scores)
        return soft_choice(scores, temperature=self.config.teacher_score_temperature)


def check_scores(teacher_configs: Sequence[Any]) -> None:
    """Raise ValueError for a teacher whose outputs have no entropy."""
    for number, teacher in enumerate(teacher_configs):
        if teacher.num_labels < 2:
            raise UserError(
                f"teachers.{number} has a single output, so it is equally sure of all rows; give one of two classes "
                "or more"
            )


def check_dropping(config: Config, teacher_configs: Sequence[Any]) -> None:
    """Raise ValueError for a teacher without dropout that is to run with it."""
    for number, teacher in enumerate(teacher_configs):
        if config.scores == "dropout" and config.teacher_dropout is None and not has_dropout(teacher):
            raise UserError(
                f"method.scores is 'dropout', but teachers.{number} has no dropout; give method.teacher_dropout, such "
                "as 0.1, or write scores: single_pass"
            )


@torch.no_grad()
def teacher_scores(distiller: Distiller[Any], batch: Batch, config: Config, logits: Sequence[Tensor]) -> Tensor:
    """How certain each teacher is of each row, from its logits or in passes of its own; without gradient.

    Shapes: for each teacher (B, C_t), C_t >= 2; returns (B, teachers) float32 or wider, in [0, 1]. Scores from
    passes with dropout are read from the batch if they are stored; live passes leave teachers in evaluation mode and
    torch's generators, and so the student's dropout, as they were. The same batch and seed give the same scores.
    """
    if config.scores == "single_pass":
        return torch.stack([single_pass_scores(one, temperature=config.temperature) for one in logits], dim=-1)
    return torch.stack([_dropout_scores(distiller, batch, config, number) for number in range(len(logits))], dim=-1)


def _dropout_scores(distiller: Distiller[Any], batch: Batch, config: Config, number: int) -> Tensor:
    stored = batch.get(stored_name(number, DROPOUT_SCORES))
    if stored is not None:
        return stored
    seed = batch.seed if config.dropout_seed is None else config.dropout_seed
    seeds = pass_seeds(batch, seed=seed, passes=config.dropout_passes)
    distiller.teacher_rows += len(seeds) * batch.num_rows
    teacher = distiller.teachers[number]
    encoded = encoded_as(batch, distiller.encoding_of(number))
    with weights_present(teacher):
        return dropout_scores(teacher, encoded, head=head_of(teacher), seeds=seeds, dropout=config.teacher_dropout)
