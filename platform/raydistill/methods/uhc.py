"""Unifying heterogeneous classifiers: the student's classes of each teacher, renormalized, learn from that teacher.

Vongkulbhisal et al. 2019, "Unifying Heterogeneous Classifiers with Distillation", CVPR, as Li et al. 2022 use it for
text; code lancopku/MUKI @ 703fd17. Formulas and deviations: see README.md in this folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from raydistill.batch import Batch
from raydistill.losses.integrated_targets import agreement
from raydistill.losses.soft_targets import kl_divergence
from raydistill.methods import _integration
from raydistill.methods._base import Distiller, Requirements, Term, Terms
from raydistill.methods._integration import Labels
from raydistill.models.predictions import predict


@dataclass(frozen=True)
class Config:
    """Weight and temperature of the soft labels; the defaults are those of the published scripts."""

    kd_alpha: float = 1.0
    """Weight of the soft labels."""
    temperature: float = 1.0
    """Logits are divided by it before the softmax."""

    def __post_init__(self) -> None:
        _integration.check_soft_labels(self.kd_alpha, self.temperature)


class Method(Distiller):
    """``kd_alpha * kd``, the sum over teachers of the divergence within the classes that each one knows."""

    vanishes_for_identical_models = ("kd",)
    directions = {"kd": False, "teacher_#_kd": False, "agreement": True}

    def __init__(
        self, config: Config, student: nn.Module, teachers: Sequence[nn.Module] = (), *, teacher_labels: Labels = ()
    ) -> None:
        """``teacher_labels``: see ``ClassUnion``."""
        super().__init__(config, student, teachers)
        self.classes = _integration.ClassUnion(student, self.teachers, teacher_labels)

    @classmethod
    def requirements(cls, config: Config) -> Requirements:
        """Any number of teachers, whose logits may be stored."""
        return _integration.reads_outputs("logits")

    @classmethod
    def check(cls, config: Config, student_config: Any, teacher_configs: Sequence[Any]) -> None:
        """Refuse a regression."""
        _integration.refuse_regression(student_config)

    def terms(self, batch: Batch) -> dict[str, Term]:
        """Means over rows; ``agreement`` is with the target of ``vkd``."""
        rows = Term(batch.num_rows)
        parts = {f"teacher_{number}_kd": rows for number in range(self.classes.num_teachers)}
        return {"kd": Term(batch.num_rows, self.config.kd_alpha), **parts, "agreement": rows}

    def add_terms(self, terms: Terms, batch: Batch) -> None:
        """See the base class."""
        temperature = self.config.temperature
        logits = predict(self.student, batch, head=self.head).logits
        teacher_logits = self.classes.logits(self, batch)
        parts = [
            kl_divergence(logits.index_select(1, ids), one, temperature=temperature)
            for ids, one in zip(self.classes.ids, teacher_logits, strict=True)
        ]
        for number, rows in enumerate(parts):
            terms.log(f"teacher_{number}_kd", rows)
        terms.add("kd", torch.stack(parts).sum(dim=0))
        target = self.classes.concatenated(teacher_logits, temperature=temperature)
        terms.add("agreement", agreement(logits, target))
