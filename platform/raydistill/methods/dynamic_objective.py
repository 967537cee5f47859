"""Dynamic distillation: the less sure the student is of a row, the more it learns from hidden states than from logits.

Li et al. 2021, "Dynamic Knowledge Distillation for Pre-trained Language Models", EMNLP; code
lancopku/DynamicKD @ 261162d. Formulas and deviations: see README.md in this folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from raydistill.batch import Batch, padded_rows
from raydistill.losses.classification import label_loss
from raydistill.losses.matched_states import error_over_hidden, error_over_tokens, sum_by_row
from raydistill.losses.reduction import mean_over
from raydistill.losses.uncertainty import normalized_entropy
from raydistill.methods import _dynamic
from raydistill.methods._base import (
    LABELS,
    STATES,
    Distiller,
    Execution,
    Requirements,
    Term,
    Terms,
    check_choice,
    check_one_width,
    check_pad_to,
    check_weight,
    label_term,
)
from raydistill.models.blocks import family_of
from raydistill.models.layer_plan import num_steps
from raydistill.models.predictions import Prediction, predict
from raydistill.options import LATER
from raydistill.user_error import UserError

STRATEGIES = ("uncertainty", "uncertainty_r", "static")
_ERRORS = {"hidden": error_over_hidden, "tokens": error_over_tokens}


@dataclass(frozen=True)
class Config(_dynamic.DynamicConfig):
    """How logits and hidden states share a row; the defaults are the published ones unless a key says otherwise."""

    rep_alpha: float = 1.0
    """The weight of the hidden states, published as ``kd_rep_alpha``; ``kd_alpha`` was ``kd_kl_alpha``."""
    strategy: str = "uncertainty"
    """``uncertainty``: hidden states are weighted by the student's normalized entropy u, and logits by 1 - u.
    ``uncertainty_r``: the reverse. ``static``, the published default: both have weight 1."""
    rep_norm_dim: str = "hidden"
    """States are normalized along ``hidden``, or each dimension over the ``tokens`` of a row, as published for the
    strategy ``static``."""
    positions: str = "valid"
    """Which hidden states are compared: those of real tokens (``valid``), or as published those of padding too
    (``padded``), which is then computed."""
    pad_to: int | None = field(default=None, metadata=LATER)
    """The length that rows are padded to while padding is compared, published as 128; by default that of the
    micro-batch."""
    detach_weight: bool = False
    """Whether the weights carry no gradient; the published ones do."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("rep_alpha", self.rep_alpha)
        if self.kd_alpha == 0 and self.rep_alpha == 0:
            raise UserError("kd_alpha and rep_alpha are 0, so no teacher is read; raise one, or use method finetune")
        check_choice("strategy", self.strategy, STRATEGIES)
        if self.detach_weight and self.strategy == "static":
            raise UserError("detach_weight is true, but strategy 'static' has no weights of rows; remove it")
        check_choice("rep_norm_dim", self.rep_norm_dim, tuple(_ERRORS))
        check_choice("positions", self.positions, ("valid", "padded"))
        check_pad_to(self.pad_to, compares_padding=self.compares_padding, written="positions: padded")

    @property
    def compares_padding(self) -> bool:
        """Whether states at padding enter the loss."""
        return self.rep_alpha > 0 and self.positions == "padded"


class Method(Distiller[Config]):
    """``ce_alpha * ce + kd_alpha * mean of v * kd + rep_alpha * mean of w * rep`` with weights v and w for each row.

    >>> loss, terms = rd.DynamicObjective().build(student, [teacher])(batch)
    >>> sorted(terms)
    ['ce', 'kd', 'kd_weight', 'rep', 'rep_weight']
    """

    vanishes_for_identical_models = ("kd", "rep")
    directions = {
        **LABELS,
        "kd": False,
        "rep": False,
        **dict.fromkeys(("kd_weight", "rep_weight")),
    }

    @classmethod
    def requirements(cls, config: Config) -> Requirements:
        """One teacher that runs: states of tokens are not stored."""
        return Requirements(
            min_teachers=1,
            max_teachers=1,
            heads=_dynamic.HEADS,
            needs=STATES if config.rep_alpha > 0 else ("logits",),
            execution=Execution(
                batch_dependent=config.compares_padding and config.pad_to is None, pad_to=config.pad_to
            ),
        )

    @classmethod
    def check(cls, config: Config, student_config: Any, teacher_configs: Sequence[Any]) -> None:
        """Refuse a regression where classes are needed, and models whose hidden states do not match."""
        _dynamic.refuse_divergence_of_scores(config, student_config)
        if config.strategy != "static":
            _dynamic.refuse_scores("strategy", config.strategy, student_config, instead="static")
        if config.rep_alpha == 0:
            return
        check_one_width((student_config, *teacher_configs))
        (teacher_config,) = teacher_configs
        width, teacher_width = student_config.hidden_size, teacher_config.hidden_size
        if width != teacher_width:
            raise UserError(
                f"hidden_size is {width} in the student and {teacher_width} in the teacher; make the widths equal or "
                "set method.rep_alpha to 0"
            )
        depth, teacher_depth = num_steps(student_config), num_steps(teacher_config)
        if depth > teacher_depth:
            raise UserError(
                f"the student has {depth} layers, the teacher {teacher_depth}; choose a student that is no deeper, or "
                "set method.rep_alpha to 0"
            )
        if config.positions == "padded" and family_of(student_config).vocabulary_head(student_config) == "causal_lm":
            raise UserError(
                f"method.positions is 'padded', but {student_config.model_type} is a decoder; set it to valid"
            )

    def _alphas(self) -> dict[str, float]:
        """The weights of the teacher's terms that are positive."""
        alphas = {"kd": self.config.kd_alpha, "rep": self.config.rep_alpha}
        return {name: alpha for name, alpha in alphas.items() if alpha > 0}

    def terms(self, batch: Batch) -> dict[str, Term]:
        """Means over rows; besides the losses without the rows' weights, the mean weights."""
        rows = batch.num_rows
        found = {label_term(batch): Term(rows, self.config.ce_alpha), **dict.fromkeys(self._alphas(), Term(rows))}
        if self.config.strategy == "static":
            return found
        return {**found, **{f"{name}_weight": Term(rows) for name in self._alphas()}}

    def add_terms(self, terms: Terms, batch: Batch) -> None:
        """See the base class."""
        compares_states = "rep" in self._alphas()
        labels, label = batch["labels"], label_term(batch)
        if self.config.compares_padding:
            batch = padded_rows(batch)
        student = predict(self.student, batch, head=self.head, with_states=compares_states)
        teacher = self.run_teacher(batch, with_states=compares_states)
        terms.add(label, label_loss(student.logits, labels))
        weights = self._weights(student.logits)
        for name, alpha in self._alphas().items():
            if name == "kd":
                rows = _dynamic.soft_losses(self.config, student.logits, teacher.logits)
            else:
                rows = self._state_losses(student, teacher, batch)
            mean = terms.log(name, rows)
            if weights:
                mean = mean_over(weights[name] * rows, terms.denominators[name])
                terms.log(f"{name}_weight", weights[name])
            terms.add_loss(alpha * mean)

    def _weights(self, logits: Tensor) -> dict[str, Tensor]:
        """Weights (B,) of the rows' losses on logits and on hidden states, empty where all are 1."""
        if self.config.strategy == "static":
            return {}
        uncertainty = normalized_entropy(logits.detach() if self.config.detach_weight else logits)
        names = ("kd", "rep") if self.config.strategy == "uncertainty" else ("rep", "kd")
        return dict(zip(names, (1 - uncertainty, uncertainty), strict=True))

    def _state_losses(self, student: Prediction, teacher: Prediction, batch: Batch) -> Tensor:
        """Sum over matched layers of the mean squared error between a row's states (B,)."""
        states, teacher_states = student.hidden_states, teacher.hidden_states
        depth, teacher_depth = len(states) - 1, len(teacher_states) - 1
        error, layout = _ERRORS[self.config.rep_norm_dim], student.layout
        errors = [
            error(own, teacher_states[number * teacher_depth // depth], layout) for number, own in enumerate(states)
        ]
        sums = sum_by_row(torch.stack(errors).sum(dim=0), layout)
        return sums / (layout.width if self.config.positions == "padded" else batch["lengths"])
