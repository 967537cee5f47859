"""How sure each teacher is of each row: of one pass, or of several passes with its dropout on, as in MUKI.

Li et al. 2022, "From Mimicking to Integrating: Knowledge Integration for Pre-Trained Language Models", Findings of
EMNLP; code lancopku/MUKI @ 703fd17.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raydistill.batch import Batch, encoded_as
from raydistill.methods._base import Distiller
from raydistill.methods._checks import check_choice
from raydistill.methods._integration import IntegrationConfig
from raydistill.methods._teacher_outputs import stored_name
from raydistill.models.dropout_scores import dropout_scores, has_dropout, pass_seeds, single_pass_scores
from raydistill.models.load import head_of
from raydistill.models.offloading import weights_present

DROPOUT_SCORES = "dropout_scores"
"""Kind of teacher outputs that holds scores of passes with dropout."""


@dataclass(frozen=True)
class ScoreConfig(IntegrationConfig):
    """How sure teachers are is found out; defaults are the published ones unless a key says otherwise."""

    scores: str = "single_pass"
    """How sure a teacher is of a row, 1 less the normalized entropy of its classes: ``single_pass`` of the soft labels
    themselves, at ``temperature``; ``dropout`` of the mean of ``dropout_passes`` passes with dropout, at temperature 1,
    live or stored. Published runs take the latter from a file that was made without any dropout."""
    dropout_passes: int = 16
    """For ``dropout``: passes of each teacher, live or where the training stores them by itself, not those that a
    capture stage made."""
    dropout_seed: int | None = None
    """For ``dropout``: key of what these passes drop; by default the stage's seed, and 0 where they are stored."""
    teacher_dropout: float | None = None
    """For ``dropout``: dropout of the teachers in these passes, None keeps what their checkpoints say."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("scores", self.scores, ("single_pass", "dropout"))
        if self.dropout_passes < 2:
            raise ValueError(f"dropout_passes is {self.dropout_passes}; a mean needs at least 2")
        if self.teacher_dropout is not None and not 0 < self.teacher_dropout < 1:
            raise ValueError(f"teacher_dropout is {self.teacher_dropout}; it must be between 0 and 1, or null")
        for key in ("dropout_seed", "teacher_dropout"):
            if self.scores == "single_pass" and getattr(self, key) is not None:
                raise ValueError(
                    f"{key} is {getattr(self, key)}, but scores is 'single_pass', which drops nothing; remove it, or "
                    "write scores: dropout"
                )

    @property
    def read_kinds(self) -> tuple[str, ...]:
        """Kinds of teacher outputs that are read, live or stored."""
        return ("logits", DROPOUT_SCORES) if self.scores == "dropout" else ("logits",)

    @property
    def couples_rows(self) -> bool:
        """Whether a row's scores depend on its micro-batch: what live passes drop is drawn for all of it."""
        return self.scores == "dropout"


def check_scores(teacher_configs: Sequence[Any]) -> None:
    """Raise ValueError for a teacher whose classes have no entropy."""
    for number, teacher in enumerate(teacher_configs):
        if teacher.num_labels < 2:
            raise ValueError(
                f"teachers.{number} has a single output, so it is equally sure of all rows; give one of two classes "
                "or more"
            )


def check_dropping(config: ScoreConfig, teacher_configs: Sequence[Any]) -> None:
    """Raise ValueError for a teacher without dropout that is to drop."""
    for number, teacher in enumerate(teacher_configs):
        if config.scores == "dropout" and config.teacher_dropout is None and not has_dropout(teacher):
            raise ValueError(
                f"method.scores is 'dropout', but teachers.{number} has no dropout; give method.teacher_dropout, such "
                "as 0.1, or write scores: single_pass"
            )


@torch.no_grad()
def teacher_scores(distiller: Distiller, batch: Batch, config: ScoreConfig, logits: Sequence[Tensor]) -> Tensor:
    """How sure each teacher is of each row, from its logits or in passes of its own; without gradient.

    Shapes: for each teacher (B, C_t), C_t >= 2; returns (B, teachers) float32 or wider, in [0, 1]. Passes with dropout
    are read from the batch where they are stored; live ones leave teachers in evaluation mode and torch's generators,
    and so the student's dropout, as they were. The same batch and seed give the same scores.
    """
    if config.scores == "single_pass":
        return torch.stack([single_pass_scores(one, temperature=config.temperature) for one in logits], dim=-1)
    return torch.stack([_dropout_scores(distiller, batch, config, number) for number in range(len(logits))], dim=-1)


def _dropout_scores(distiller: Distiller, batch: Batch, config: ScoreConfig, number: int) -> Tensor:
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
