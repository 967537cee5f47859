"""MUKI: one target over all classes from the teachers that are sure of a row, weighted by how clearly one is surest.

Li et al. 2022, "From Mimicking to Integrating: Knowledge Integration for Pre-Trained Language Models", Findings of
EMNLP; code lancopku/MUKI @ 703fd17. Formulas and deviations: see README.md in this folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from raydistill.batch import Batch
from raydistill.losses.integrated_targets import agreement, hard_choice, mixed_target, score_margin, soft_choice
from raydistill.losses.reduction import mean_over
from raydistill.methods import _integration
from raydistill.methods._base import Requirements, row_count
from raydistill.methods._checks import check_choice, check_positive
from raydistill.methods._teacher_scores import ScoreConfig, check_dropping, check_scores, teacher_scores
from raydistill.models.predictions import predict


@dataclass(frozen=True)
class Config(ScoreConfig):
    """How teachers are scored and chosen; defaults are those of the published script unless a key says otherwise.

    ``kd_alpha`` was published as ``vkd_weight``; no temperature squared goes with it.
    """

    teacher_choice: str = "soft"
    """``soft``: all teachers' targets, weighted by their scores; ``hard``: that of the one with the greatest score."""
    margin_reweighting: bool = True
    """Weigh a row by the difference of its two greatest scores, which takes two teachers."""
    teacher_score_temperature: float = 0.2
    """With ``soft``: scores are divided by it before the softmax that weighs teachers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("teacher_choice", self.teacher_choice, ("soft", "hard"))
        check_positive("teacher_score_temperature", self.teacher_score_temperature)


class Method(_integration.IntegrationDistiller):
    """``kd_alpha * kd``, the divergence of the student from the integrated target, which has no gradient."""

    @classmethod
    def requirements(cls, config: Config) -> Requirements:
        """Any number of teachers; their logits may be stored, and scores of passes with dropout."""
        return _integration.of_outputs(*config.read_kinds, coupled_live=config.couples_rows)

    @classmethod
    def check(cls, config: Config, student_config: Any, teacher_configs: Sequence[Any]) -> None:
        """Refuse scores of texts, a single teacher where two are compared, and teachers that have no scores."""
        super().check(config, student_config, teacher_configs)
        check_scores(teacher_configs)
        if config.margin_reweighting and len(teacher_configs) < 2:
            raise ValueError(
                f"method.margin_reweighting is true, which compares two teachers, but teachers has "
                f"{len(teacher_configs)}; add one, or set it to false"
            )

    @classmethod
    def check_running(cls, config: Config, teacher_configs: Sequence[Any]) -> None:
        """Refuse teachers without dropout where passes with it are asked for."""
        check_dropping(config, teacher_configs)

    def denominators(self, batch: Batch) -> dict[str, Tensor]:
        """Rows, for all terms."""
        names = [f"teacher_{number}_{kind}" for kind in ("score", "share") for number in range(self.num_teachers)]
        names += ["kd", "agreement", *(["margin"] if self.config.margin_reweighting else [])]
        return dict.fromkeys(names, row_count(batch))

    def forward(self, batch: Batch, denominators: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See the base class; besides ``kd``, which has the rows' weights, means of what decided."""
        config, counts = self.config, {name: count.clamp(min=1) for name, count in denominators.items()}
        logits = predict(self.student, batch, head=self.head).logits
        of_teachers = self.all_logits(batch)
        scores = teacher_scores(self, batch, config, of_teachers)
        shares = self._shares(scores)
        target = mixed_target(
            of_teachers, self.classes, self.num_classes, weights=shares, temperature=config.temperature
        )
        rows = self.divergence(logits, target)
        logged = {"agreement": mean_over(agreement(logits, target), counts["agreement"])}
        for number in range(self.num_teachers):
            for kind, values in (("score", scores), ("share", shares)):
                logged[f"teacher_{number}_{kind}"] = mean_over(values[:, number], counts[f"teacher_{number}_{kind}"])
        if config.margin_reweighting:
            margin = score_margin(scores)
            logged["margin"] = mean_over(margin, counts["margin"])
            rows = margin * rows
        term = mean_over(rows, counts["kd"])
        return config.kd_alpha * term, {"kd": term.detach(), **logged}

    def _shares(self, scores: Tensor) -> Tensor:
        """Weights (B, teachers) of the teachers' targets."""
        if self.config.teacher_choice == "hard":
            return hard_choice(scores)
        return soft_choice(scores, temperature=self.config.teacher_score_temperature)
