"""Vanilla distillation from several teachers: one softmax over all their logits side by side.

Li et al. 2022, "From Mimicking to Integrating", Findings of EMNLP; code lancopku/MUKI @ 703fd17. Formulas and
deviations: see README.md in this folder.
"""

from torch import Tensor

from raydistill.batch import Batch
from raydistill.losses.integrated_targets import agreement
from raydistill.losses.reduction import mean_over
from raydistill.methods import _integration
from raydistill.methods._base import Requirements, row_count
from raydistill.methods._integration import IntegrationConfig as Config
from raydistill.models.predictions import predict

__all__ = ["Config", "Method"]


class Method(_integration.IntegrationDistiller):
    """``kd_alpha * kd``, the divergence of the student from the teachers' concatenated logits."""

    @classmethod
    def requirements(cls, config: Config) -> Requirements:
        """Any number of teachers, whose logits may be stored."""
        return _integration.of_outputs("logits")

    def denominators(self, batch: Batch) -> dict[str, Tensor]:
        """Rows."""
        return dict.fromkeys(("kd", "agreement"), row_count(batch))

    def forward(self, batch: Batch, denominators: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See the base class."""
        logits = predict(self.student, batch, head=self.head).logits
        target = self.concatenated(self.all_logits(batch))
        rows = self.config.temperature**2 * self.divergence(logits, target)
        term = mean_over(rows, denominators["kd"].clamp(min=1))
        agreed = mean_over(agreement(logits, target), denominators["agreement"].clamp(min=1))
        return self.config.kd_alpha * term, {"kd": term.detach(), "agreement": agreed}
