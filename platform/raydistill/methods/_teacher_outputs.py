"""What a method reads of its teachers: from the batch, where it was stored, or by running them."""

import torch
from torch import Tensor

from raydistill.batch import Batch, encoded_as
from raydistill.methods._base import Distiller
from raydistill.models.load import head_of
from raydistill.models.offloading import weights_present
from raydistill.models.predictions import Prediction, predict

CLASSIFYING = ("sequence_classification", "token_classification", "question_answering")
"""Heads whose logits ``predict`` gives."""


def stored_name(number: int, kind: str) -> str:
    """The batch's column of what teacher ``number`` said, of a kind such as ``logits``."""
    return f"teacher_{number}_{kind}"


def teacher_logits(distiller: Distiller, batch: Batch, *, number: int = 0) -> Tensor:
    """Logits (N, C) of a teacher, without gradient."""
    stored = batch.get(stored_name(number, "logits"))
    return run_teacher(distiller, batch, number=number).logits if stored is None else stored


@torch.no_grad()
def run_teacher(distiller: Distiller, batch: Batch, *, number: int = 0, with_states: bool = False) -> Prediction:
    """A teacher's logits and, where they are wanted, states, without gradient; of the rows in its own encoding."""
    distiller.teacher_rows += batch.num_rows
    teacher = distiller.teachers[number]
    encoded = encoded_as(batch, distiller.encoding_of(number))
    with weights_present(teacher):
        return predict(teacher, encoded, head=head_of(teacher), with_states=with_states)
