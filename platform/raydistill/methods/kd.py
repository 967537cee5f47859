"""Knowledge distillation of a classifier: the teacher's soft labels beside the true ones.

Hinton et al. 2015, sec. 2; weights as published with patient KD (Sun et al. 2019) and Pea-KD.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from raydistill.batch import Batch
from raydistill.methods._base import Distiller, Requirements
from raydistill.methods._soft_labels import SoftLabelConfig as Config
from raydistill.methods._soft_labels import soft_label_denominators, soft_label_loss
from raydistill.methods._teacher_outputs import CLASSIFYING, teacher_logits
from raydistill.models.load import head_of
from raydistill.models.predictions import predict

__all__ = ["Config", "Method"]


class Method(Distiller):
    """``alpha * kd + (1 - alpha) * ce``, of scores ``mse`` in place of ``ce`` and a squared error as ``kd``."""

    zero_at_teacher = ("kd",)

    def __init__(self, config: Config, student: nn.Module, teachers: Sequence[nn.Module] = ()) -> None:
        super().__init__(config, student, teachers)
        self.head = head_of(student)

    @classmethod
    def requirements(cls, config: Config) -> Requirements:
        """One teacher, unless its weight is 0; its logits may be stored, and of sequences its tokenizer another.

        Answers have as many classes as the micro-batch has places, which a mean over classes would let decide.
        """
        needed = 1 if config.alpha > 0 else 0
        heads = CLASSIFYING if config.reduction == "batchmean" else CLASSIFYING[:2]
        return Requirements(
            min_teachers=needed,
            max_teachers=needed,
            heads=heads,
            stored=("logits",),
            own_encodings=True,
            one_at_a_time=True,
            labels=config.alpha < 1,
        )

    def denominators(self, batch: Batch) -> dict[str, Tensor]:
        """Number of labels, for both terms."""
        return soft_label_denominators(self.config, batch)

    def forward(self, batch: Batch, denominators: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See the base class."""
        logits = predict(self.student, batch, head=self.head).logits
        of_teacher = teacher_logits(self, batch) if self.config.alpha > 0 else None
        loss, terms = soft_label_loss(self.config, batch, denominators, logits=logits, of_teacher=of_teacher)
        return loss, {name: term.detach() for name, term in terms.items()}
