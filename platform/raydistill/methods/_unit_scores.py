"""The two losses by which StarK scores a teacher's attention heads and feed-forward neurons.

Source: StarK, "Sparse teachers can be dense with knowledge" (EMNLP 2022); code GeneZC/StarK @ ac1e8d1.
"""

from torch import Tensor, nn

from raydistill.batch import Batch
from raydistill.losses.classification import label_loss
from raydistill.losses.soft_targets import soft_cross_entropy, squared_error
from raydistill.models import importance
from raydistill.models.importance import EXPRESSIVENESS, FRIENDLINESS, RowGradients
from raydistill.user_error import UserError


def row_gradients(
    model: nn.Module, batch: Batch, *, head: str, student_logits: Tensor | None = None, temperature: float = 2.0
) -> dict[str, RowGradients]:
    """``EXPRESSIVENESS`` of each row and, given the logits (N, C) of a student on the same batch, ``FRIENDLINESS``.

    See ``importance.row_gradients``, whose errors it raises. Also raises ValueError for rows without labels and for
    logits of another shape.
    """
    if "labels" not in batch:
        raise UserError("rows have no labels, by which heads and neurons are scored; give a labeled corpus")

    def losses(logits: Tensor) -> dict[str, Tensor]:
        found = {EXPRESSIVENESS: label_loss(logits, batch["labels"])}
        if student_logits is not None:
            found[FRIENDLINESS] = distillation_loss(logits, student_logits.detach(), temperature=temperature)
        return found

    return importance.row_gradients(model, batch, head=head, losses=losses)


def distillation_loss(teacher_logits: Tensor, student_logits: Tensor, *, temperature: float) -> Tensor:
    """The part of the published distillation loss that depends on the teacher's logits (N, C), one per label (N,).

    Half the soft cross-entropy times temperature squared; for regression, C = 1, half the squared error. The other half
    is the student's own loss with the labels. Raises ValueError if the shapes differ.
    """
    if teacher_logits.shape[-1] == 1:
        return 0.5 * squared_error(student_logits, teacher_logits)
    return 0.5 * soft_cross_entropy(student_logits, teacher_logits, temperature=temperature)
