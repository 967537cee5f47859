"""What the methods that follow Hinton et al. 2015 share: soft labels beside the true ones, weighted by ``alpha``."""

from dataclasses import dataclass

from torch import Tensor

from raydistill.batch import Batch
from raydistill.losses.classification import label_loss
from raydistill.losses.reduction import mean_over
from raydistill.losses.soft_targets import kl_divergence, squared_error
from raydistill.methods._base import count_of, label_term, row_count
from raydistill.methods._checks import check_choice, check_positive


@dataclass(frozen=True)
class SoftLabelConfig:
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
        check_positive("temperature", self.temperature)
        check_choice("reduction", self.reduction, ("batchmean", "mean"))


def soft_label_denominators(config: SoftLabelConfig, batch: Batch) -> dict[str, Tensor]:
    """Number of labels, for both terms, as far as they have a weight; of rows where there are no labels."""
    labels = batch.get("labels")
    count = row_count(batch) if labels is None else count_of(batch, labels.shape[0])
    found = {label_term(batch): count} if config.alpha < 1 else {}
    return {**found, "kd": count} if config.alpha > 0 else found


def soft_label_loss(
    config: SoftLabelConfig,
    batch: Batch,
    denominators: dict[str, Tensor],
    *,
    logits: Tensor,
    of_teacher: Tensor | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """``alpha * kd + (1 - alpha) * ce`` of student logits (N, C), and these terms with their gradient.

    Of scores ``mse`` stands in place of ``ce`` and a squared error is ``kd``. The teacher's logits (N, C) are needed
    where ``alpha`` is positive.
    """
    terms = {}
    loss = logits.new_zeros(())
    if config.alpha < 1:
        label = label_term(batch)
        terms[label] = mean_over(label_loss(logits, batch["labels"]), denominators[label].clamp(min=1))
        loss = loss + (1 - config.alpha) * terms[label]
    if config.alpha > 0:
        assert of_teacher is not None
        rows = soft_row_losses(logits, of_teacher, temperature=config.temperature, reduction=config.reduction)
        terms["kd"] = mean_over(rows, denominators["kd"].clamp(min=1))
        loss = loss + config.alpha * terms["kd"]
    return loss, terms


def soft_row_losses(logits: Tensor, of_teacher: Tensor, *, temperature: float, reduction: str) -> Tensor:
    """Divergence from the teacher's classes, or squared error of scores, of logits (N, C), one value a row (N,).

    With ``reduction`` ``mean`` the divergence is divided by the number of classes.
    """
    if logits.shape[-1] == 1:
        return squared_error(logits, of_teacher)
    divergence = kl_divergence(logits, of_teacher, temperature=temperature)
    return divergence / logits.shape[-1] if reduction == "mean" else divergence
