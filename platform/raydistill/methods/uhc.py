"""Unifying heterogeneous classifiers: the student's classes of each teacher, renormalized, learn from that teacher.

Vongkulbhisal et al. 2019, "Unifying Heterogeneous Classifiers with Distillation", CVPR, as Li et al. 2022 use it for
text; code lancopku/MUKI @ 703fd17. Formulas and deviations: see README.md in this folder.
"""

from dataclasses import dataclass

import torch

from raydistill.batch import Batch
from raydistill.losses.integrated_targets import agreement
from raydistill.losses.soft_targets import kl_divergence
from raydistill.methods import _integration
from raydistill.methods._base import Term, Terms
from raydistill.models.predictions import predict


@dataclass(frozen=True)
class Config(_integration.SoftLabelsConfig):
    """Weight and temperature of the soft labels; the defaults are those of the published scripts."""


class Method(_integration.IntegrationDistiller[Config]):
    """``kd_alpha * kd``, the sum over teachers of the divergence within the classes that each one knows.

    >>> loss, terms = rd.UHC().build(student, [teacher, other_teacher])(batch)
    >>> sorted(terms)
    ['agreement', 'kd', 'teacher_0_kd', 'teacher_1_kd']
    """

    directions = {"kd": False, "teacher_#_kd": False, "agreement": True}

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
