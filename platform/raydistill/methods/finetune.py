"""Train a model on its task alone, for instance to adapt a teacher to a corpus; no teacher."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raydistill.batch import Batch
from raydistill.layout import Layout
from raydistill.losses.chunked_head import vocabulary_losses
from raydistill.methods._base import Distiller, Requirements
from raydistill.models.blocks import blocks_of

_TERMS = {"masked_lm": "mlm", "causal_lm": "clm"}


@dataclass(frozen=True)
class Config:
    """The task loss has no options."""


class Method(Distiller):
    """Mean cross-entropy of the student at the task's label positions.

    Its only term is ``mlm`` for a masked-language model and ``clm`` for a causal one.
    """

    def __init__(self, config: Config, student: nn.Module, teachers: Sequence[nn.Module] = ()) -> None:
        super().__init__(config, student, teachers)
        self.term = _TERMS[blocks_of(student).HEAD]

    @classmethod
    def requirements(cls, config: Config) -> Requirements:
        """No teacher, no partners."""
        return Requirements(tasks=("mlm", "clm"))

    def denominators(self, batch: Batch) -> dict[str, Tensor]:
        """Number of labels."""
        return {self.term: batch["labels"].new_full((), batch["labels"].shape[0], dtype=torch.float64)}

    def forward(self, batch: Batch, denominators: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, which is also its only term; see the base class for the denominators."""
        blocks = blocks_of(self.student)
        layout = Layout.of(batch["attention_mask"], batch["token_index"])
        embedded = blocks.embed(layout.take(batch["input_ids"]), layout)
        hidden = blocks.run(embedded, layout, 0, blocks.num_blocks)
        rows = hidden.index_select(0, layout.places(batch["label_index"]))
        count = denominators[self.term].clamp(min=1)
        loss, sums = vocabulary_losses(
            blocks.head_states(rows),
            blocks.head_projection(),
            weights={"ce": 1 / count},
            labels=batch["labels"],
        )
        return loss, {self.term: sums["ce"] / count}
