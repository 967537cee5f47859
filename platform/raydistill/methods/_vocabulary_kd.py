"""The terms of method ``kd`` for language models: distributions over the vocabulary at each compared token.

No logits of all tokens ever exist: ``losses.chunked_head`` turns chunks of states into losses and gradients.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raydistill.batch import Batch, labels_first
from raydistill.layout import Layout
from raydistill.losses.chunked_head import Member, Projection, vocabulary_losses
from raydistill.losses.divergences import Divergence, divergence_of
from raydistill.losses.top_k import TopK, mixed, normalized
from raydistill.methods._base import VOCABULARY_TERMS, Distiller, Term, Terms, check_positive, stored_name
from raydistill.methods._teacher_rows import of_teacher, rows_of
from raydistill.models.offloading import weights_present
from raydistill.models.predictions import at_labels
from raydistill.user_error import UserError

if TYPE_CHECKING:
    from raydistill.methods.kd import Config

_OF_COMPLETIONS = "of prompts and messages only what the teacher says of predicted tokens"


def measure_of(name: str, *, beta: float, skew: float) -> Divergence | None:
    """The divergence of these options; None for the forward KL divergence, which has code of its own.

    Raises UserError for a parameter that it does not take.
    """
    try:
        found = divergence_of(name, beta=beta, skew=skew)
    except ValueError as error:
        raise UserError(str(error)) from None
    return None if name == "forward_kl" else found


def vocabulary_terms(config: "Config", batch: Batch, head: str) -> dict[str, Term]:
    """The terms as far as they have a weight; ``add_vocabulary_terms`` weights them, as one pass makes both."""
    labels, tokens = batch["labels"].shape[0], batch["token_index"].shape[0]
    found = {VOCABULARY_TERMS[head]: Term(labels)} if config.alpha < 1 else {}
    compared = tokens if config.positions == "all" else labels
    return {**found, "kd": Term(compared)} if config.alpha > 0 else found


def add_vocabulary_terms(method: "Distiller[Config]", terms: Terms, batch: Batch) -> None:
    """Add the terms of ``vocabulary_terms``."""
    config = method.config
    kind = "mse" if config.divergence == "mse" else "kl"
    names = {"ce": VOCABULARY_TERMS[method.head], kind: "kd"}
    shares = {"ce": 1 - config.alpha, kind: config.alpha}
    weights = {kind: share / terms.denominators[names[kind]] for kind, share in shares.items() if share > 0}
    found: dict[str, Tensor] = {}
    index = batch["label_index"]
    if config.alpha > 0 and config.positions == "all":
        index = labels_first(batch) if config.alpha < 1 else batch["token_index"]
    parts = _parts(method, batch, index)
    states, projection = at_labels(method.student, batch, torch.cat([part.index for part in parts]))
    for part, its in zip(parts, states.split([len(part.index) for part in parts]), strict=True):
        loss, sums = vocabulary_losses(
            its,
            projection,
            *(part.teacher or (None, None)),
            weights=weights,
            labels=part.labels if "ce" in weights else None,
            temperature=config.temperature,
            divergence=config.measure,
            mixture=part.mixture,
            teacher_top_k=part.top_k,
        )
        terms.add_loss(loss)
        for kind, value in sums.items():
            found[kind] = found[kind] + value if kind in found else value
    for kind, value in found.items():
        terms.log(names[kind], value)


def is_stored(batch: Batch) -> bool:
    """Whether a batch has what teachers said, so that none runs."""
    return stored_name(0, "top_k_ids") in batch


def check_teachers(config: "Config") -> None:
    """Raise UserError for weights that are none, and for teachers of corpora that are not numbered from 0 on."""
    weights, numbers = config.teacher_weights, set(config.teacher_of.values())
    if weights and config.teacher_of:
        raise UserError("teacher_weights and teacher_of are given; leave one of them out")
    for number, weight in enumerate(weights):
        check_positive(f"teacher_weights.{number}", weight)
    if len(weights) > 1 and config.divergence == "mse":
        raise UserError(
            "divergence is 'mse', but several teachers are mixed as distributions; choose another divergence"
        )
    if numbers != set(range(len(numbers))):
        raise UserError(
            f"teacher_of has the teachers {', '.join(map(str, sorted(numbers)))}; number them from 0, and give each a "
            "corpus"
        )


def check_top_k(config: "Config", positions: str, temperature: float) -> None:
    """Raise ValueError where a teacher's likeliest ids, stored at a temperature, are not what the options compare."""
    if config.divergence == "mse":
        raise UserError(
            "method.divergence is 'mse', which compares all logits, but only the teacher's likeliest ids are stored; "
            "choose another divergence, or write teacher_outputs: live"
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


@dataclass(frozen=True)
class _Part:
    """Compared positions and whom they are compared with; the first ones have the labels."""

    index: Tensor
    labels: Tensor
    teacher: tuple[Tensor, Projection] | None = None
    mixture: tuple[Member, ...] = ()
    top_k: TopK | None = None


def _parts(method: "Distiller[Config]", batch: Batch, index: Tensor) -> list[_Part]:
    """All positions at once, or those of each teacher where corpora have their own."""
    config, labels = method.config, batch["labels"]
    if config.alpha == 0:
        return [_Part(index, labels)]
    if is_stored(batch):
        kept = [_stored(batch, index, number) for number in range(len(config.teacher_weights) or 1)]
        return [_Part(index, labels, top_k=mixed(kept, _shares(config)) if len(kept) > 1 else kept[0])]
    if config.teacher_of:
        parts = []
        for number in range(config.num_teachers):
            here, own, its = of_teacher(batch, number)
            parts.append(_Part(here, its, _teacher_head(method, rows_of(batch, number), own, number)))
        return parts
    heads = [_teacher_head(method, batch, index, number) for number in range(config.num_teachers)]
    if len(heads) == 1:
        return [_Part(index, labels, heads[0])]
    members = zip(_shares(config), heads, strict=True)
    return [_Part(index, labels, mixture=tuple((share, *head) for share, head in members))]


def _shares(config: "Config") -> list[float]:
    return [weight / sum(config.teacher_weights) for weight in config.teacher_weights]


def _stored(batch: Batch, index: Tensor, number: int) -> TopK:
    """A teacher's stored distributions at flat positions (R,)."""
    kept = TopK(*(batch[stored_name(number, f"top_k_{name}")] for name in ("ids", "log_probs", "log_tails")))
    # Those of masked models and of instructions stand in the order of the labels, which alone are compared and are
    # fewer: a row's last token has none.
    if kept.ids.shape[0] == batch["token_index"].shape[0]:
        places = Layout.of(batch["attention_mask"], batch["token_index"]).places(index)
        kept = TopK(*(part.index_select(0, places) for part in kept))
    return normalized(kept)


@torch.no_grad()
def _teacher_head(method: "Distiller[Config]", batch: Batch, index: Tensor, number: int) -> tuple[Tensor, Projection]:
    method.teacher_rows += batch.num_rows
    teacher = method.teachers[number]
    with weights_present(teacher):
        states, (weight, bias) = at_labels(teacher, batch, index)
        # What a parameter lets go of when its turn is over stays with what was detached from it.
        return states, (None if weight is None else weight.detach(), None if bias is None else bias.detach())
