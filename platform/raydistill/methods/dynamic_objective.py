"""Dynamic distillation: the less sure the student is of a row, the more it learns from hidden states than from logits.

Li et al. 2021, "Dynamic Knowledge Distillation for Pre-trained Language Models", EMNLP; code
lancopku/DynamicKD @ 261162d. Formulas and deviations: see README.md in this folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.batch import Batch, padded_rows
from raydistill.losses.classification import label_loss
from raydistill.losses.matched_states import error_over_hidden, error_over_tokens, sum_by_row
from raydistill.losses.reduction import mean_over
from raydistill.losses.uncertainty import normalized_entropy
from raydistill.methods import _dynamic
from raydistill.methods._base import Distiller, Requirements, label_term, row_count
from raydistill.methods._checks import check_choice, check_weight
from raydistill.methods._teacher_outputs import run_teacher
from raydistill.models.blocks import blocks_of, family_of
from raydistill.models.layer_plan import num_steps
from raydistill.models.load import head_of
from raydistill.models.predictions import Prediction, predict

STRATEGIES = ("uncertainty", "uncertainty_r", "static")
_ERRORS = {"hidden": error_over_hidden, "tokens": error_over_tokens}


@dataclass(frozen=True)
class Config(_dynamic.DynamicConfig):
    """How logits and hidden states share a row; defaults are the published ones unless a key says otherwise."""

    rep_alpha: float = 1.0
    """Weight of the hidden states, published as ``kd_rep_alpha``; ``kd_alpha`` was ``kd_kl_alpha``."""
    strategy: str = "uncertainty"
    """``uncertainty``: hidden states have the student's normalized entropy as weight, logits the rest;
    ``uncertainty_r``: the reverse; ``static``, the published default: both have 1."""
    rep_norm_dim: str = "hidden"
    """States have length 1 along ``hidden``, or each dimension over the ``tokens`` of a row, as published for
    ``static``."""
    positions: str = "valid"
    """Hidden states of real tokens (``valid``), or as published of padding too (``padded``), which is then computed."""
    detach_weight: bool = False
    """Whether the weights have no gradient; published ones have."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("rep_alpha", self.rep_alpha)
        if self.kd_alpha == 0 and self.rep_alpha == 0:
            raise ValueError("kd_alpha and rep_alpha are 0, so no teacher is read; raise one, or use method finetune")
        check_choice("strategy", self.strategy, STRATEGIES)
        if self.detach_weight and self.strategy == "static":
            raise ValueError("detach_weight is true, but strategy 'static' has no weights of rows; remove it")
        check_choice("rep_norm_dim", self.rep_norm_dim, tuple(_ERRORS))
        check_choice("positions", self.positions, ("valid", "padded"))


class Method(Distiller):
    """``ce_alpha * ce + kd_alpha * mean of v * kd + rep_alpha * mean of w * rep`` with weights v and w of rows."""

    zero_at_teacher = ("kd", "rep")

    def __init__(self, config: Config, student: nn.Module, teachers: Sequence[nn.Module] = ()) -> None:
        super().__init__(config, student, teachers)
        self.head = head_of(student)
        self._losses = _dynamic.row_losses(config)

    @classmethod
    def requirements(cls, config: Config) -> Requirements:
        """One teacher that runs: states of tokens are not stored."""
        return Requirements(
            min_teachers=1,
            max_teachers=1,
            row_coupled=config.rep_alpha > 0 and config.positions == "padded",
            heads=_dynamic.HEADS,
        )

    @classmethod
    def check(cls, config: Config, student_config: Any, teacher_configs: Sequence[Any]) -> None:
        """Refuse scores where classes are needed, and models whose hidden states do not match."""
        _dynamic.refuse_divergence_of_scores(config, student_config)
        if config.strategy != "static":
            _dynamic.refuse_scores("strategy", config.strategy, student_config, instead="static")
        if config.rep_alpha == 0:
            return
        (teacher_config,) = teacher_configs
        width, teacher_width = student_config.hidden_size, teacher_config.hidden_size
        if width != teacher_width:
            raise ValueError(
                f"hidden_size is {width} in the student and {teacher_width} in the teacher; make the widths equal or "
                "set method.rep_alpha to 0"
            )
        depth, teacher_depth = num_steps(student_config), num_steps(teacher_config)
        if depth > teacher_depth:
            raise ValueError(
                f"the student has {depth} layers, the teacher {teacher_depth}; choose a student that is no deeper, or "
                "set method.rep_alpha to 0"
            )
        if config.positions == "padded" and family_of(student_config.model_type).HEAD != "masked_lm":
            raise ValueError(
                f"method.positions is 'padded', but {student_config.model_type} is a decoder; set it to valid"
            )

    def denominators(self, batch: Batch) -> dict[str, Tensor]:
        """Rows, for all terms."""
        names = [label_term(batch)]
        for name, alpha in (("kd", self.config.kd_alpha), ("rep", self.config.rep_alpha)):
            if alpha > 0:
                names += [name] if self.config.strategy == "static" else [name, f"{name}_weight"]
        return dict.fromkeys(names, row_count(batch))

    def forward(self, batch: Batch, denominators: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See the base class; besides the losses without their weights, the mean weights."""
        config, counts = self.config, {name: count.clamp(min=1) for name, count in denominators.items()}
        matches = config.rep_alpha > 0
        labels, label = batch["labels"], label_term(batch)
        if matches and config.positions == "padded":
            batch = padded_rows(batch)
        student = predict(self.student, batch, head=self.head, with_states=matches)
        teacher = run_teacher(self, batch, with_states=matches)
        terms = {label: mean_over(label_loss(student.logits, labels), counts[label])}
        loss = config.ce_alpha * terms[label]
        weights = self._weights(student.logits)
        losses = {}
        if config.kd_alpha > 0:
            losses["kd"] = self._losses(student.logits, teacher.logits)
        if matches:
            losses["rep"] = self._state_losses(student, teacher, batch)
        for name, of_rows in losses.items():
            mean, logged = _shared(name, of_rows, weights, counts)
            loss = loss + (config.kd_alpha if name == "kd" else config.rep_alpha) * mean
            terms |= logged
        return loss, {name: term.detach() for name, term in terms.items()}

    def _weights(self, logits: Tensor) -> dict[str, Tensor]:
        """Weights (B,) of the losses of logits and of hidden states, none where both are 1."""
        if self.config.strategy == "static":
            return {}
        uncertainty = normalized_entropy(logits.detach() if self.config.detach_weight else logits)
        names = ("kd", "rep") if self.config.strategy == "uncertainty" else ("rep", "kd")
        return dict(zip(names, (1 - uncertainty, uncertainty), strict=True))

    def _state_losses(self, student: Prediction, teacher: Prediction, batch: Batch) -> Tensor:
        """Sum over matched layers of the mean squared error of a row's states (B,)."""
        states = _with_last(self.student, student)
        # Without its gradient, the last norm of a teacher that is a decoder would be a leaf of the graph.
        with torch.no_grad():
            of_teacher = _with_last(self.teachers[0], teacher)
        depth, teacher_depth = len(states) - 1, len(of_teacher) - 1
        error, layout = _ERRORS[self.config.rep_norm_dim], student.layout
        errors = [error(own, of_teacher[number * teacher_depth // depth], layout) for number, own in enumerate(states)]
        sums = sum_by_row(torch.stack(errors).sum(dim=0), layout)
        return sums / (layout.width if self.config.positions == "padded" else batch["lengths"])


def _with_last(model: nn.Module, prediction: Prediction) -> list[Tensor]:
    """Hidden states as transformers gives them: a decoder's last ones are normalized."""
    *states, last = prediction.states
    return [*states, blocks_of(model).last_states(last)]


def _shared(
    name: str, losses: Tensor, weights: dict[str, Tensor], counts: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean of a loss of rows times their weights, and what is logged: the plain mean and the mean weight."""
    terms = {name: mean_over(losses, counts[name])}
    if not weights:
        return terms[name], terms
    terms[f"{name}_weight"] = mean_over(weights[name], counts[f"{name}_weight"])
    return mean_over(weights[name] * losses, counts[name]), terms
