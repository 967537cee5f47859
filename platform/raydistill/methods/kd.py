"""Knowledge distillation of a classifier: the teacher's soft labels beside the true ones.

Hinton et al. 2015, sec. 2; weights as published with patient KD (Sun et al. 2019) and Pea-KD.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raydistill.batch import Batch
from raydistill.losses.classification import label_loss
from raydistill.losses.reduction import mean_over
from raydistill.losses.soft_targets import kl_divergence, squared_error
from raydistill.methods._base import Distiller, Requirements, label_term
from raydistill.methods._teacher_outputs import CLASSIFYING, teacher_logits
from raydistill.models.load import head_of
from raydistill.models.predictions import predict


@dataclass(frozen=True)
class Config:
    """Weights and temperature; defaults are Pea-KD's."""

    alpha: float = 0.7
    """Share of the soft labels in the loss; the true labels have the rest."""
    temperature: float = 10.0
    """Logits are divided by it before the softmax."""
    reduction: str = "batchmean"
    """``batchmean`` sums the divergence over classes; ``mean`` divides it by their number too, as earlier code did."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is {self.alpha}; it must be between 0 and 1")
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; it must be positive")
        if self.reduction not in ("batchmean", "mean"):
            raise ValueError(f"reduction is {self.reduction!r}; choices: batchmean, mean")


class Method(Distiller):
    """``alpha * kd + (1 - alpha) * ce``, of scores ``mse`` in place of ``ce`` and a squared error as ``kd``."""

    zero_at_teacher = ("kd",)

    def __init__(self, config: Config, student: nn.Module, teachers: Sequence[nn.Module] = ()) -> None:
        super().__init__(config, student, teachers)
        self.head = head_of(student)

    @classmethod
    def requirements(cls, config: Config) -> Requirements:
        """One teacher, unless its weight is 0; its logits may be stored."""
        needed = 1 if config.alpha > 0 else 0
        return Requirements(min_teachers=needed, max_teachers=needed, heads=CLASSIFYING, stored=("logits",))

    def denominators(self, batch: Batch) -> dict[str, Tensor]:
        """Number of labels, for both terms."""
        labels = batch["labels"]
        count = labels.new_full((), labels.shape[0], dtype=torch.float64)
        found = {label_term(batch): count} if self.config.alpha < 1 else {}
        return {**found, "kd": count} if self.config.alpha > 0 else found

    def forward(self, batch: Batch, denominators: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See the base class."""
        logits = predict(self.student, batch, head=self.head).logits
        alpha, terms = self.config.alpha, {}
        loss = logits.new_zeros(())
        if alpha < 1:
            label = label_term(batch)
            terms[label] = mean_over(label_loss(logits, batch["labels"]), denominators[label].clamp(min=1))
            loss = loss + (1 - alpha) * terms[label]
        if alpha > 0:
            rows = self._soft_losses(logits, teacher_logits(self, batch))
            terms["kd"] = mean_over(rows, denominators["kd"].clamp(min=1))
            loss = loss + alpha * terms["kd"]
        return loss, {name: term.detach() for name, term in terms.items()}

    def _soft_losses(self, logits: Tensor, of_teacher: Tensor) -> Tensor:
        """One value a row (N,)."""
        if logits.shape[-1] == 1:
            return squared_error(logits, of_teacher)
        divergence = kl_divergence(logits, of_teacher, temperature=self.config.temperature)
        return divergence / logits.shape[-1] if self.config.reduction == "mean" else divergence
