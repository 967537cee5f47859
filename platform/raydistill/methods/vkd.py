"""Vanilla distillation from several teachers: one softmax over all their logits side by side.

Li et al. 2022, "From Mimicking to Integrating", Findings of EMNLP; code lancopku/MUKI @ 703fd17. Formulas and
deviations: see README.md in this folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from raydistill.batch import Batch
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
    """``kd_alpha * kd``, the divergence of the student from the teachers' concatenated logits."""

    vanishes_for_identical_models = ("kd",)
    directions = {"kd": False, "agreement": True}

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
        """Means over rows."""
        return {"kd": Term(batch.num_rows, self.config.kd_alpha), "agreement": Term(batch.num_rows)}

    def add_terms(self, terms: Terms, batch: Batch) -> None:
        """See the base class."""
        temperature = self.config.temperature
        logits = predict(self.student, batch, head=self.head).logits
        target = self.classes.concatenated(self.classes.logits(self, batch), temperature=temperature)
        _integration.add_concatenated_kd(terms, logits, target, temperature=temperature)
