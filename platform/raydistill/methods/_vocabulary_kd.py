"""The terms of method ``kd`` for language models: distributions over the vocabulary at each compared token.

No logits of all tokens ever exist: ``losses.chunked_head`` turns chunks of states into losses and gradients.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raydistill.batch import Batch, labels_first
from raydistill.losses.chunked_head import Projection, vocabulary_losses
from raydistill.methods._base import VOCABULARY_TERMS, Distiller, Term, Terms
from raydistill.models.predictions import at_labels

if TYPE_CHECKING:
    from raydistill.methods.kd import Config


def vocabulary_terms(config: "Config", batch: Batch, head: str) -> dict[str, Term]:
    """The terms as far as they have a weight; ``add_vocabulary_terms`` weights them, as one pass makes both."""
    labels, tokens = batch["labels"].shape[0], batch["token_index"].shape[0]
    found = {VOCABULARY_TERMS[head]: Term(labels)} if config.alpha < 1 else {}
    compared = tokens if config.positions == "all" else labels
    return {**found, "kd": Term(compared)} if config.alpha > 0 else found


def add_vocabulary_terms(method: Distiller, terms: Terms, batch: Batch) -> None:
    """Add the terms of ``vocabulary_terms``."""
    config = method.config
    kind = "mse" if config.divergence == "mse" else "kl"
    names = {"ce": VOCABULARY_TERMS[method.head], kind: "kd"}
    shares = {"ce": 1 - config.alpha, kind: config.alpha}
    weights = {kind: share / terms.denominators[names[kind]] for kind, share in shares.items() if share > 0}
    index = batch["label_index"]
    if config.alpha > 0 and config.positions == "all":
        index = labels_first(batch) if config.alpha < 1 else batch["token_index"]
    loss, sums = vocabulary_losses(
        *at_labels(method.student, batch, index),
        *(_teacher_head(method, batch, index) if config.alpha > 0 else (None, None)),
        weights=weights,
        labels=batch["labels"] if "ce" in weights else None,
        temperature=config.temperature,
        divergence=config.measure,
    )
    terms.add_loss(loss)
    for kind, value in sums.items():
        terms.log(names[kind], value)


@torch.no_grad()
def _teacher_head(method: Distiller, batch: Batch, index: Tensor) -> tuple[Tensor, Projection]:
    method.teacher_rows += batch.num_rows
    return at_labels(method.teachers[0], batch, index)
