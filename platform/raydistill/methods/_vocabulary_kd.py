"""The terms of method ``kd`` for language models: distributions over the vocabulary at each compared token.

No logits of all tokens ever exist: ``losses.chunked_head`` turns chunks of states into losses and gradients.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raydistill.batch import Batch, labels_first
from raydistill.layout import Layout
from raydistill.losses.chunked_head import Projection, vocabulary_losses
from raydistill.losses.top_k import TopK, normalized
from raydistill.methods._base import VOCABULARY_TERMS, Distiller, Term, Terms, stored_name
from raydistill.models.predictions import at_labels
from raydistill.user_error import UserError

if TYPE_CHECKING:
    from raydistill.methods.kd import Config

_OF_COMPLETIONS = "of prompts and messages only what the teacher says of predicted tokens"


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
    top_k = _stored(batch, index) if config.alpha > 0 else None
    loss, sums = vocabulary_losses(
        *at_labels(method.student, batch, index),
        *(_teacher_head(method, batch, index) if config.alpha > 0 and top_k is None else (None, None)),
        weights=weights,
        labels=batch["labels"] if "ce" in weights else None,
        temperature=config.temperature,
        divergence=config.measure,
        teacher_top_k=top_k,
    )
    terms.add_loss(loss)
    for kind, value in sums.items():
        terms.log(names[kind], value)


def check_top_k(config: "Config", positions: str, temperature: float) -> None:
    """Raise ValueError where a teacher's likeliest ids, stored at a temperature, are not what the options compare."""
    if config.divergence == "mse":
        raise UserError(
            "method.divergence is 'mse', which compares all logits, but of the teacher's only the likeliest are "
            "stored; choose another divergence, or write teacher_outputs: live"
        )
    if config.temperature != temperature:
        raise UserError(
            f"method.temperature is {config.temperature:g}, but the teacher's likeliest ids are stored at temperature "
            f"{temperature:g}; write method.temperature: {temperature:g}, or capture them at {config.temperature:g}"
        )
    if positions not in ("all", config.positions):
        where = "of a masked model only what it says at masked tokens" if positions == "masked" else _OF_COMPLETIONS
        raise UserError(
            f"method.positions is {config.positions!r}, but {where} is stored; write method.positions: {positions}, or "
            "teacher_outputs: live"
        )


def _stored(batch: Batch, index: Tensor) -> TopK | None:
    """The teacher's stored distributions at flat positions (R,), None where it runs."""
    names = [stored_name(0, f"top_k_{name}") for name in ("ids", "log_probs", "log_tails")]
    if names[0] not in batch:
        return None
    kept = TopK(*(batch[name] for name in names))
    # Those of masked models and of instructions stand in the order of the labels, which alone are compared and are
    # fewer: a row's last token has none.
    if kept.ids.shape[0] == batch["token_index"].shape[0]:
        places = Layout.of(batch["attention_mask"], batch["token_index"]).places(index)
        kept = TopK(*(part.index_select(0, places) for part in kept))
    return normalized(kept)


@torch.no_grad()
def _teacher_head(method: Distiller, batch: Batch, index: Tensor) -> tuple[Tensor, Projection]:
    method.teacher_rows += batch.num_rows
    return at_labels(method.teachers[0], batch, index)
