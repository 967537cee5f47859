"""Knowledge distillation of a classifier: the teacher's soft labels beside the true labels.

Hinton et al. 2015, sec. 2.
"""

from dataclasses import dataclass

from torch import Tensor

from raydistill.batch import Batch
from raydistill.losses.classification import label_loss
from raydistill.losses.soft_targets import soft_label_loss
from raydistill.methods._base import (
    CLASSIFYING,
    Distiller,
    Execution,
    Requirements,
    Term,
    Terms,
    check_choice,
    check_positive,
    label_term,
)
from raydistill.models.predictions import predict
from raydistill.user_error import UserError


@dataclass(frozen=True)
class Config:
    """Weights and temperature."""

    alpha: float = 0.5
    """Fraction of the loss that the soft labels have; the true labels have the rest."""
    temperature: float = 2.0
    """Logits are divided by it before the softmax."""
    reduction: str = "batchmean"
    """``batchmean`` sums the divergence over classes; ``mean`` also divides it by their number, as earlier code did."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise UserError(f"alpha is {self.alpha}; it must be between 0 and 1")
        check_positive("temperature", self.temperature)
        check_choice("reduction", self.reduction, ("batchmean", "mean"))


class Method(Distiller):
    """``alpha * kd + (1 - alpha) * ce``; for regression ``mse`` replaces ``ce``, and ``kd`` is a squared error."""

    vanishes_for_identical_models = ("kd",)

    @classmethod
    def requirements(cls, config: Config) -> Requirements:
        """One teacher, unless its weight is 0; its logits may be stored, and its tokenizer may differ for sequences.

        Answers have as many classes as the micro-batch has positions, so a mean over classes would depend on it.
        """
        needed = 1 if config.alpha > 0 else 0
        return Requirements(
            min_teachers=needed,
            max_teachers=needed,
            heads=CLASSIFYING if config.reduction == "batchmean" else CLASSIFYING[:2],
            stored=("logits",),
            labels=config.alpha < 1,
            execution=Execution(sequential_teachers=True, cross_tokenizer=True),
        )

    def terms(self, batch: Batch) -> dict[str, Term]:
        """Means over labels."""
        return soft_label_terms(self.config, batch)

    def add_terms(self, terms: Terms, batch: Batch) -> None:
        """See the base class."""
        logits = predict(self.student, batch, head=self.head).logits
        teacher_logits = self.teacher_logits(batch) if self.config.alpha > 0 else None
        add_soft_labels(terms, self.config, batch, logits, teacher_logits)


def soft_label_terms(config: Config, batch: Batch) -> dict[str, Term]:
    """The terms of the true and of the soft labels as far as they have a weight, means over labels.

    They are means over rows where there are no labels.
    """
    labels = batch.get("labels")
    count = batch.num_rows if labels is None else labels.shape[0]
    found = {label_term(batch): Term(count, 1 - config.alpha)} if config.alpha < 1 else {}
    return {**found, "kd": Term(count, config.alpha)} if config.alpha > 0 else found


def add_soft_labels(terms: Terms, config: Config, batch: Batch, logits: Tensor, teacher_logits: Tensor | None) -> None:
    """Add the terms of ``soft_label_terms``, given logits (N, C); the teacher's are needed where alpha is positive."""
    if config.alpha < 1:
        terms.add(label_term(batch), label_loss(logits, batch["labels"]))
    if config.alpha > 0:
        assert teacher_logits is not None
        rows = soft_label_loss(
            logits,
            teacher_logits,
            temperature=config.temperature,
            mean_over_classes=config.reduction == "mean",
        )
        terms.add("kd", rows)
