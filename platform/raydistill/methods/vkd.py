"""Vanilla distillation from several teachers: one softmax over all their logits side by side.

Li et al. 2022, "From Mimicking to Integrating", Findings of EMNLP; code lancopku/MUKI @ 703fd17. Formulas and
deviations: see README.md in this folder.
"""

from dataclasses import dataclass

from raydistill.batch import Batch
from raydistill.methods import _integration
from raydistill.methods._base import Term, Terms
from raydistill.models.predictions import predict


@dataclass(frozen=True)
class Config(_integration.SoftLabelsConfig):
    """Weight and temperature of the soft labels; the defaults are those of the published scripts."""


class Method(_integration.IntegrationDistiller[Config]):
    """``kd_alpha * kd``, the divergence of the student from the teachers' concatenated logits.

    >>> loss, terms = rd.VKD().build(student, [teacher, other_teacher])(batch)
    >>> sorted(terms)
    ['agreement', 'kd']
    """

    directions = {"kd": False, "agreement": True}

    def terms(self, batch: Batch) -> dict[str, Term]:
        """Means over rows."""
        return {"kd": Term(batch.num_rows, self.config.kd_alpha), "agreement": Term(batch.num_rows)}

    def add_terms(self, terms: Terms, batch: Batch) -> None:
        """See the base class."""
        temperature = self.config.temperature
        logits = predict(self.student, batch, head=self.head).logits
        target = self.classes.concatenated(self.classes.logits(self, batch), temperature=temperature)
        _integration.add_concatenated_kd(terms, logits, target, temperature=temperature)
