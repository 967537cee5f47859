"""Train a model on its task alone, for instance to adapt a teacher to a corpus; no teacher."""

from dataclasses import dataclass

import torch
from torch import Tensor

from raydistill.batch import Batch
from raydistill.losses.chunked_head import vocabulary_losses
from raydistill.methods._base import Distiller, Requirements
from raydistill.models.blocks import blocks_of


@dataclass(frozen=True)
class Config:
    """The task loss has no options."""


class Method(Distiller):
    """Mean cross-entropy of the student at the task's label positions."""

    @classmethod
    def requirements(cls, config: Config) -> Requirements:
        """No teacher, no partners."""
        return Requirements(tasks=("mlm",))

    def denominators(self, batch: Batch) -> dict[str, Tensor]:
        """Number of labels, for the term ``mlm``."""
        return {"mlm": batch["labels"].new_full((), batch["labels"].shape[0], dtype=torch.float64)}

    def forward(self, batch: Batch, denominators: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The masked-LM loss, which is also its only term; see the base class for the denominators."""
        blocks = blocks_of(self.student)
        mask = batch["attention_mask"]
        hidden = blocks.run(blocks.embed(batch["input_ids"], mask), mask, 0, blocks.num_blocks)
        rows = hidden.flatten(0, 1).index_select(0, batch["label_index"])
        loss, sums = vocabulary_losses(
            blocks.head_states(rows),
            blocks.head_projection(),
            weights={"ce": 1 / denominators["mlm"].clamp(min=1)},
            labels=batch["labels"],
        )
        return loss, {"mlm": sums["ce"] / denominators["mlm"].clamp(min=1)}
