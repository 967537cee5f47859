"""Dynamic distillation: the teacher runs only on the rows that the student is least sure of.

Li et al. 2021, "Dynamic Knowledge Distillation for Pre-trained Language Models", EMNLP; code
lancopku/DynamicKD @ 261162d. Formulas and deviations: see README.md in this folder.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raydistill import draws
from raydistill.batch import Batch
from raydistill.losses.classification import label_loss
from raydistill.losses.uncertainty import confidence, divergence_from_labels, margin, normalized_entropy
from raydistill.methods import _dynamic
from raydistill.methods._base import LABELS, Distiller, Execution, Requirements, Term, Terms, check_choice, label_term
from raydistill.models.predictions import predict
from raydistill.user_error import UserError

CHOSEN = "chosen_rows"
"""Column (K,) int64 with the rows that selection ``random`` has drawn."""
SOFT_LABELS = "soft_labels"
"""Column (B, C) with the class probabilities that the selections of the kl family compare with."""


def _sorted(logits: Tensor, batch: Batch, *, score: Callable[[Tensor], Tensor], descending: bool) -> Tensor:
    return torch.argsort(score(logits), descending=descending, stable=True)


def _by_divergence(logits: Tensor, batch: Batch, *, descending: bool) -> Tensor:
    score = divergence_from_labels(logits, batch[SOFT_LABELS])
    return torch.argsort(score, descending=descending, stable=True)


def _alternating(logits: Tensor, batch: Batch) -> Tensor:
    """The hardest row, the easiest, the second hardest, and so on."""
    hardest_first = _by_divergence(logits, batch, descending=True)
    return torch.stack([hardest_first, hardest_first.flip(0)], dim=1).flatten()[: len(hardest_first)]


ORDERS: dict[str, Callable[[Tensor, Batch], Tensor]] = {
    "entropy": partial(_sorted, score=normalized_entropy, descending=True),
    "entropy_r": partial(_sorted, score=normalized_entropy, descending=False),
    "confidence": partial(_sorted, score=confidence, descending=False),
    "lc": partial(_sorted, score=confidence, descending=False),
    "confidence_r": partial(_sorted, score=confidence, descending=True),
    "margin": partial(_sorted, score=margin, descending=False),
    "kl": partial(_by_divergence, descending=True),
    "kl_fix": partial(_by_divergence, descending=True),
    "kl_r": partial(_by_divergence, descending=False),
    "kl_b": _alternating,
}
"""From student logits (B, C) and the batch to the numbers (B,) of the rows, in the order that a selection takes."""
_NEED_SOFT_LABELS = ("kl", "kl_fix", "kl_r", "kl_b")
_NO_SOFT_LABELS = (
    "which compares with soft labels, but rows of a corpus have class ids alone; choose entropy, confidence or margin"
)
SELECTIONS = ("none", "random", *ORDERS)


@dataclass(frozen=True)
class Config(_dynamic.DynamicConfig):
    """Which rows are distilled; selection and ratio are as in the published runs."""

    selection: str = "margin"
    """Which rows of a micro-batch come first: those with the highest ``entropy``, the lowest ``confidence`` (or
    ``lc``), or the lowest ``margin`` between the top two classes. ``entropy_r`` and ``confidence_r`` reverse the order,
    and ``random`` draws it. With the soft labels: the highest ``kl`` divergence from them, its reverse ``kl_r``, or
    both in turn, ``kl_b``. ``none`` takes all rows, whatever ``ratio`` is."""
    ratio: float = 0.5
    """The fraction of a micro-batch's rows that is taken, at least one row."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _dynamic.check_distils(self)
        check_choice("selection", self.selection, SELECTIONS)
        if not 0 < self.ratio <= 1:
            raise UserError(f"ratio is {self.ratio}; it must be in (0, 1]")

    def num_chosen(self, num_rows: int) -> int:
        """Number of a micro-batch's rows that the teacher sees."""
        return num_rows if self.selection == "none" else max(1, int(num_rows * self.ratio))


class Method(Distiller[Config]):
    """``ce_alpha * ce`` over all rows and ``kd_alpha * kd`` over the chosen ones.

    >>> loss, terms = rd.DynamicData(ratio=0.5).build(student, [teacher])(batch)
    >>> sorted(terms)
    ['ce', 'chosen_share', 'chosen_uncertainty', 'kd', 'uncertainty']
    """

    vanishes_for_identical_models = ("kd",)
    directions = {
        **LABELS,
        "kd": False,
        **dict.fromkeys(("chosen_share", "uncertainty", "chosen_uncertainty")),
    }

    @classmethod
    def requirements(cls, config: Config) -> Requirements:
        """One teacher; its logits may be stored."""
        return Requirements(
            min_teachers=1,
            max_teachers=1,
            heads=_dynamic.HEADS,
            stored=("logits",),
            execution=Execution(batch_dependent=config.selection != "none", sequential_teachers=True),
        )

    @classmethod
    def check(cls, config: Config, student_config: Any, teacher_configs: Sequence[Any]) -> None:
        """Refuse a regression where classes are needed."""
        _dynamic.refuse_divergence_of_scores(config, student_config)
        if config.selection in _NEED_SOFT_LABELS:
            raise UserError(f"method.selection is {config.selection!r}, {_NO_SOFT_LABELS}")
        if config.selection in ORDERS:
            _dynamic.refuse_scores("selection", config.selection, student_config, instead="none or random")

    @classmethod
    def prepare_batch(cls, config: Config, batch: Batch) -> Batch:
        """Draw the rows of selection ``random`` from (seed, step, micro-batch, row id).

        Raises ValueError if a selection needs soft labels and the batch has none.
        """
        if config.selection in _NEED_SOFT_LABELS and SOFT_LABELS not in batch:
            raise UserError(f"method.selection is {config.selection!r}, {_NO_SOFT_LABELS}")
        if config.selection != "random":
            return batch
        keys = batch.seed, batch.step, batch.micro_batch, batch["row_id"].numpy()
        drawn = np.argsort(draws.uniform("dynamic_data", *keys), kind="stable")
        return batch.with_columns(**{CHOSEN: torch.from_numpy(drawn[: config.num_chosen(batch.num_rows)])})

    def terms(self, batch: Batch) -> dict[str, Term]:
        """Means over rows or chosen rows; besides the losses, how many are chosen and how uncertain they are."""
        config, rows, chosen = self.config, batch.num_rows, self.config.num_chosen(batch.num_rows)
        found = {
            label_term(batch): Term(rows, config.ce_alpha),
            "kd": Term(chosen, config.kd_alpha),
            "chosen_share": Term(rows),
        }
        if batch["labels"].is_floating_point():
            return found
        return {**found, "uncertainty": Term(rows), "chosen_uncertainty": Term(chosen)}

    def add_terms(self, terms: Terms, batch: Batch) -> None:
        """See the base class."""
        logits = predict(self.student, batch, head=self.head).logits
        rows = self._chosen(logits.detach(), batch)
        chosen = logits if rows is None else logits.index_select(0, rows)
        teacher_logits = self.teacher_logits(batch) if rows is None else _dynamic.logits_of_rows(self, batch, rows)
        terms.add(label_term(batch), label_loss(logits, batch["labels"]))
        terms.add("kd", _dynamic.soft_losses(self.config, chosen, teacher_logits))
        terms.record("chosen_share", chosen.shape[0] / terms.denominators["chosen_share"])
        if not batch["labels"].is_floating_point():
            terms.log("uncertainty", normalized_entropy(logits.detach()))
            terms.log("chosen_uncertainty", normalized_entropy(chosen.detach()))

    def _chosen(self, logits: Tensor, batch: Batch) -> Tensor | None:
        """Numbers (K,) of the rows that the teacher sees, None for all."""
        if self.config.selection == "none":
            return None
        if self.config.selection == "random":
            return batch[CHOSEN]
        return ORDERS[self.config.selection](logits, batch)[: self.config.num_chosen(batch.num_rows)]
