"""Train a model on its task alone, for instance to make a teacher; no teacher."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raydistill.batch import Batch
from raydistill.layout import Layout
from raydistill.losses.chunked_head import vocabulary_losses
from raydistill.losses.classification import label_loss
from raydistill.losses.reduction import mean_over
from raydistill.methods._base import Distiller, Requirements, label_term
from raydistill.models.blocks import blocks_of
from raydistill.models.load import head_of
from raydistill.models.predictions import predict

_TERMS = {"masked_lm": "mlm", "causal_lm": "clm"}


@dataclass(frozen=True)
class Config:
    """The task loss has no options."""


class Method(Distiller):
    """Mean cross-entropy of the student at the task's labels, or mean squared error of scores.

    Its only term is ``mlm`` for a masked-language model, ``clm`` for a causal one, ``ce`` of classes and ``mse`` of
    scores.
    """

    def __init__(self, config: Config, student: nn.Module, teachers: Sequence[nn.Module] = ()) -> None:
        super().__init__(config, student, teachers)
        self.head = head_of(student)

    @classmethod
    def requirements(cls, config: Config) -> Requirements:
        """No teacher, no partners."""
        return Requirements()

    def denominators(self, batch: Batch) -> dict[str, Tensor]:
        """Number of labels."""
        labels = batch["labels"]
        return {self._term(batch): labels.new_full((), labels.shape[0], dtype=torch.float64)}

    def _term(self, batch: Batch) -> str:
        return _TERMS.get(self.head) or label_term(batch)

    def forward(self, batch: Batch, denominators: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, which is also its only term; see the base class for the denominators."""
        term = self._term(batch)
        count = denominators[term].clamp(min=1)
        if self.head in _TERMS:
            return self._vocabulary_loss(batch, term, count)
        logits = predict(self.student, batch, head=self.head).logits
        loss = mean_over(label_loss(logits, batch["labels"]), count)
        return loss, {term: loss.detach()}

    def _vocabulary_loss(self, batch: Batch, term: str, count: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        blocks = blocks_of(self.student)
        layout = Layout.of(batch["attention_mask"], batch["token_index"])
        embedded = blocks.embed(layout.take(batch["input_ids"]), layout)
        hidden = blocks.run(embedded, layout, 0, blocks.num_blocks)
        rows = hidden.index_select(0, layout.places(batch["label_index"]))
        loss, sums = vocabulary_losses(
            blocks.head_states(rows), blocks.head_projection(), weights={"ce": 1 / count}, labels=batch["labels"]
        )
        return loss, {term: sums["ce"] / count}
