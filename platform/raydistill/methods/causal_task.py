"""Causal distillation of a classifier: match a fine-tuned teacher's classes, also under interchange interventions.

Wu, Geiger, Rozner, Kreiss, Lu, Icard, Potts and Goodman 2022, "Causal Distillation for Language Models", NAACL;
published code frankaging/Causal-Distill-XXS @ eb75481. Terms and deviations: see README.md in this folder.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from raydistill.batch import Batch
from raydistill.interventions import passes
from raydistill.interventions.positions import in_batch_partners, interchange_positions
from raydistill.interventions.sites import (
    Mapping,
    check_variables,
    columns_by_layer,
    draw,
    full_mapping,
    load_mapping,
)
from raydistill.layout import Layout
from raydistill.losses.classification import label_loss
from raydistill.losses.hidden_states import pkd_loss
from raydistill.losses.soft_targets import soft_label_loss
from raydistill.methods._base import Distiller, Execution, Requirements, Term, Terms, label_term
from raydistill.methods._causal_task_config import COUNTERFACTUAL, FULL, PAIR, Config
from raydistill.models.blocks import Blocks, blocks_of
from raydistill.models.checks import check_layers
from raydistill.models.layer_plan import num_steps
from raydistill.user_error import UserError

__all__ = ["Config", "Method"]

HEAD = "sequence_classification"

AGREEMENT = "causal_agreement"
"""Fraction of rows to which teacher and student assign the same class under intervention; only logged."""

_Pairs = tuple[tuple[int, ...], tuple[int, ...]]


class _ForwardOutputs(NamedTuple):
    """Outputs of one pass of a model, None for what nothing reads."""

    logits: Tensor | None
    """(B, C)"""
    states: tuple[Tensor, ...]
    """(B, D) each: the pooled states of the rows in each compared layer."""


class Method(Distiller[Config]):
    """``alpha * kd + (1 - alpha) * ce + gamma * causal_kd + beta * (pkd + causal_pkd)``.

    For regression ``mse`` replaces ``ce``, and a squared error the divergences.

    >>> loss, terms = rd.CausalTask().build(student, [teacher])(batch)
    >>> sorted(terms)
    ['causal_agreement', 'causal_kd', 'ce', 'kd']
    """

    vanishes_for_identical_models = ("kd", "pkd", "causal_kd", "causal_pkd", "pair_kd", "pair_pkd")
    directions = {
        **{prefix + name: False for prefix in ("", COUNTERFACTUAL, PAIR) for name in ("ce", "mse", "kd", "pkd")},
        AGREEMENT: True,
    }

    def __init__(self, config: Config, student: nn.Module, teachers: Sequence[nn.Module] = ()) -> None:
        super().__init__(config, student, teachers)
        depths = [blocks_of(model).num_blocks for model in (student, *self.teachers)]
        self.mapping = _mapping(config, *depths) if config.swaps_states else None
        self.compared = _compared_blocks(config, *depths) if config.beta > 0 else ((), ())

    @classmethod
    def requirements(cls, config: Config) -> Requirements:
        """One teacher, unless nothing compares with it; two rows where each is another's partner."""
        needed = 1 if set(config.weights) - {"label", PAIR + "label"} else 0
        return Requirements(
            min_teachers=needed,
            max_teachers=needed,
            min_rows=2 if config.intervenes else 1,
            heads=(HEAD,),
            needs=(
                "logits",
                *(["sites"] if config.swaps_states else []),
                *(["pooled", "all_states"] if config.beta > 0 else []),
            ),
            execution=Execution(batch_dependent=config.intervenes),
        )

    @classmethod
    def check(cls, config: Config, student_config: Any, teacher_configs: Sequence[Any]) -> None:
        """Refuse models without a mapped site, and with ``beta`` those whose hidden sizes or depths do not match."""
        models = dict(zip(("student", "teacher"), (student_config, *teacher_configs), strict=False))
        depths = {f"{owner}_layers": num_steps(model) for owner, model in models.items()}
        if config.swaps_states:
            groups = _mapping(config, **depths).groups
            for owner, model in models.items():
                check_variables(
                    [variable for group in groups for variable in getattr(group, owner)],
                    owner=owner,
                    num_layers=depths[f"{owner}_layers"],
                    num_heads=model.num_attention_heads,
                    hidden_size=model.hidden_size,
                )
        if config.beta > 0:
            widths = {owner: model.hidden_size for owner, model in models.items()}
            if widths["student"] != widths["teacher"]:
                raise UserError(
                    f"hidden_size is {widths['student']} in the student and {widths['teacher']} in the teacher; "
                    "set method.beta to 0 or make the widths equal"
                )
            _compared_blocks(config, **depths)

    @classmethod
    def prepare_batch(cls, config: Config, batch: Batch) -> Batch:
        """Draw partners and interchanged positions, from (seed, epoch, row id)."""
        if not config.intervenes:
            return batch
        lengths, row_ids = batch["lengths"].numpy(), batch["row_id"].numpy()
        width = batch["input_ids"].shape[1]
        partners = in_batch_partners(row_ids, seed=batch.seed, epoch=batch.epoch)
        base, partner = interchange_positions(
            config.interchange_mode,
            lengths,
            lengths[partners],
            row_ids,
            width=width,
            partner_width=width,
            proportion=config.interchange_proportion,
            max_tokens=config.max_tokens,
            padded=False,
            label_index=None,
            seed=batch.seed,
            epoch=batch.epoch,
        )
        # Drawn as positions of the partner of row i in row i; they lie in the row that is the partner.
        partner = partners[partner // width] * width + partner % width
        return batch.with_columns(
            interchange_base=torch.from_numpy(base), interchange_partner=torch.from_numpy(partner)
        )

    def terms(self, batch: Batch) -> dict[str, Term]:
        """Means over rows."""
        rows, labels = batch["labels"].shape[0], batch["labels"]
        found = {_name(name, batch): Term(rows, weight) for name, weight in self.config.weights.items()}
        has_classes = not labels.is_floating_point()
        return {**found, AGREEMENT: Term(rows)} if self.config.intervenes and has_classes else found

    def add_terms(self, terms: Terms, batch: Batch) -> None:
        """See the base class."""
        teacher = self._teacher_outputs(batch) if self.teachers else (_ForwardOutputs(None, ()),) * 2
        student = self._outputs(1, batch)
        kinds = {"label": _label_losses, "kd": self._soft_losses, "pkd": self._pkd_losses}
        for name in self.config.weights:
            second = name.startswith((COUNTERFACTUAL, PAIR))
            row_losses = kinds[name.removeprefix(COUNTERFACTUAL).removeprefix(PAIR)]
            terms.add(_name(name, batch), row_losses(student[second], teacher[second], batch))
        if AGREEMENT in terms.denominators:
            terms.log(AGREEMENT, _agreement(student[1], teacher[1]))

    def _soft_losses(self, student: _ForwardOutputs, teacher: _ForwardOutputs, batch: Batch) -> Tensor:
        """One value for each row (B,)."""
        assert student.logits is not None
        assert teacher.logits is not None
        return soft_label_loss(
            student.logits,
            teacher.logits,
            temperature=self.config.temperature,
            mean_over_classes=self.config.reduction == "mean",
        )

    def _pkd_losses(self, student: _ForwardOutputs, teacher: _ForwardOutputs, batch: Batch) -> Tensor:
        """One value for each row (B,)."""
        states = torch.stack(student.states, dim=1), torch.stack(teacher.states, dim=1)
        return pkd_loss(*states, normalized=self.config.normalize_patience)

    @torch.no_grad()
    def _teacher_outputs(self, batch: Batch) -> tuple[_ForwardOutputs, _ForwardOutputs]:
        self.teacher_rows += batch.num_rows
        return self._outputs(0, batch)

    def _outputs(self, side: int, batch: Batch) -> tuple[_ForwardOutputs, _ForwardOutputs]:
        """Outputs of the teacher (side 0) or the student (side 1) in the base and in the second pass."""
        blocks = blocks_of(self.student if side else self.teachers[0])
        blocks.draw_plan(seed=batch.seed, step=batch.step)
        base = _rows(batch, blocks)
        planned = self._planned(side, batch, blocks, base)
        first, second = passes.run_and_keep(blocks, planned)
        of_first = _outputs_of(blocks, first, planned.rows(passes.BASE))
        of_second = _outputs_of(blocks, second, planned.rows(passes.COUNTERFACTUAL))
        # Without dropout a pass over the same rows has the same outputs again.
        return of_first, of_first if self.config.data_pair and planned.counterfactual is None else of_second

    def _planned(self, side: int, batch: Batch, blocks: Blocks, base: passes.Rows) -> passes.Passes:
        """Which passes run; without dropout they share what is equal in them."""
        draws_dropout = side == 1 and self.training
        shares_prefix = not draws_dropout or self.config.share_student_prefix
        again = self.config.data_pair and draws_dropout
        swap = None
        counterfactual = base if again or (self.mapping is not None and not shares_prefix) else None
        if self.mapping is not None:
            sites = draw(self.mapping, batch.seed, batch.step)[side]
            swap = passes.Interchange(
                columns_by_layer(sites, num_heads=blocks.num_heads, hidden_size=blocks.hidden_size),
                base.layout.places(batch["interchange_base"]),
                base.layout.places(batch["interchange_partner"]),
                self.config.site_offset,
            )
        elif self.config.intervenes:
            counterfactual = _augmented(batch, base, blocks)
        return passes.Passes(
            base,
            source=None if shares_prefix or swap is None else base,
            counterfactual=counterfactual,
            interchange=swap,
            needs_base=side == 1 or self.config.alpha > 0,
            kept=tuple(block + 1 for block in self.compared[side]),
        )


def _name(name: str, batch: Batch) -> str:
    """A term's name, given that in ``Config.weights``."""
    return name.replace("label", label_term(batch))


def _label_losses(student: _ForwardOutputs, teacher: _ForwardOutputs, batch: Batch) -> Tensor:
    """The loss with the true label of each row (B,)."""
    assert student.logits is not None
    return label_loss(student.logits, batch["labels"])


def _outputs_of(blocks: Blocks, outputs: passes.Outputs, rows: passes.Rows) -> _ForwardOutputs:
    """The logits and the kept states of a pass, given its input."""
    assert rows.kept_places is not None
    logits = None if outputs.last is None else blocks.sequence_logits(outputs.last, rows.kept_places, rows.layout)
    return _ForwardOutputs(logits, outputs.kept)


def _rows(batch: Batch, blocks: Blocks) -> passes.Rows:
    """The real tokens of the batch; what stands for the rows is kept."""
    layout = Layout.of(batch["attention_mask"], batch["token_index"])
    ids = layout.take(batch["input_ids"])
    return passes.Rows(ids, layout, batch.get("token_types"), blocks.pooled_places(layout, ids))


def _augmented(batch: Batch, base: passes.Rows, blocks: Blocks) -> passes.Rows:
    """The base with the partners' tokens, and of pairs their token types, at the interchanged positions."""
    places, partner_places = (base.layout.places(batch[f"interchange_{name}"]) for name in ("base", "partner"))

    def swapped(values: Tensor) -> Tensor:
        return values.index_copy(0, places, values.index_select(0, partner_places))

    token_types = None if base.token_types is None else swapped(base.token_types)
    ids = swapped(base.ids)
    # Other tokens may end a row elsewhere for a decoder.
    return passes.Rows(ids, base.layout, token_types, blocks.pooled_places(base.layout, ids))


def _agreement(student: _ForwardOutputs, teacher: _ForwardOutputs) -> Tensor:
    """1 for each row (B,) whose top-1 classes are equal, else 0."""
    assert student.logits is not None
    assert teacher.logits is not None
    return (student.logits.argmax(dim=-1) == teacher.logits.argmax(dim=-1)).to(student.logits.dtype)


def _mapping(config: Config, student_layers: int, teacher_layers: int) -> Mapping:
    if config.mapping == FULL:
        return full_mapping(teacher_layers=teacher_layers, student_layers=student_layers)
    return load_mapping(config.mapping)


def _compared_blocks(config: Config, student_layers: int, teacher_layers: int) -> _Pairs:
    """Compared blocks of the teacher and of the student; raises ValueError for those that do not pair up."""
    if student_layers < 2 or teacher_layers < student_layers:
        raise UserError(
            f"method.beta is {config.beta}, but the student has {student_layers} blocks and the teacher "
            f"{teacher_layers}; set it to 0, or give the student two blocks or more, at most as many as the teacher"
        )
    size = teacher_layers // student_layers
    layers = config.patience_layers
    if layers is None:
        layers = tuple(size * block + size - 1 for block in range(student_layers - 1))
    check_layers(layers, teacher_layers, key="method.patience_layers")
    if len(layers) != student_layers - 1:
        raise UserError(
            f"method.patience_layers names {len(layers)} blocks; give {student_layers - 1}, one for each of the "
            "student's blocks but the last"
        )
    return layers, tuple(range(student_layers - 1))
