"""Unifying heterogeneous classifiers: the student's classes of each teacher, renormalized, learn from that teacher.

Vongkulbhisal et al. 2019, "Unifying Heterogeneous Classifiers with Distillation", CVPR, as Li et al. 2022 use it for
text; code lancopku/MUKI @ 703fd17. Formulas and deviations: see README.md in this folder.
"""

import torch
from torch import Tensor

from raydistill.batch import Batch
from raydistill.losses.integrated_targets import agreement
from raydistill.losses.reduction import mean_over
from raydistill.losses.soft_targets import kl_divergence
from raydistill.methods import _integration
from raydistill.methods._base import Requirements, row_count
from raydistill.methods._integration import IntegrationConfig as Config
from raydistill.models.predictions import predict

__all__ = ["Config", "Method"]


class Method(_integration.IntegrationDistiller):
    """``kd_alpha * kd``, the sum over teachers of the divergence within the classes that each one knows."""

    @classmethod
    def requirements(cls, config: Config) -> Requirements:
        """Any number of teachers, whose logits may be stored."""
        return _integration.of_outputs("logits")

    def denominators(self, batch: Batch) -> dict[str, Tensor]:
        """Rows, for all terms."""
        parts = [f"teacher_{number}_kd" for number in range(self.num_teachers)]
        return dict.fromkeys(["kd", *parts, "agreement"], row_count(batch))

    def forward(self, batch: Batch, denominators: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See the base class; ``agreement`` is with the target of ``vkd``."""
        counts = {name: count.clamp(min=1) for name, count in denominators.items()}
        logits = predict(self.student, batch, head=self.head).logits
        of_teachers = self.all_logits(batch)
        parts = [
            kl_divergence(logits.index_select(1, ids), of_teacher, temperature=self.config.temperature)
            for ids, of_teacher in zip(self.classes, of_teachers, strict=True)
        ]
        terms = {
            f"teacher_{number}_kd": mean_over(rows, counts[f"teacher_{number}_kd"]) for number, rows in enumerate(parts)
        }
        terms["kd"] = mean_over(torch.stack(parts).sum(dim=0), counts["kd"])
        terms["agreement"] = mean_over(agreement(logits, self.concatenated(of_teachers)), counts["agreement"])
        return self.config.kd_alpha * terms["kd"], {name: term.detach() for name, term in terms.items()}
