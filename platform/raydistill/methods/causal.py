"""Causal distillation (DIITO): match a teacher's outputs, also under interchange interventions.

Wu, Geiger, Rozner, Kreiss, Lu, Icard, Potts and Goodman 2022, "Causal Distillation for Language Models", NAACL;
published code frankaging/Causal-Distill @ 473600b. Terms, shapes and deviations: see README.md in this folder.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.batch import PARTNER, Batch, labels_first
from raydistill.interventions import passes
from raydistill.interventions.positions import in_batch_partners, interchange_positions
from raydistill.interventions.sites import check_variables, columns_by_layer, draw, load_mapping
from raydistill.layout import Layout
from raydistill.losses.chunked_head import Projection, vocabulary_losses
from raydistill.losses.hidden_states import cosine_distance
from raydistill.methods._base import (
    VOCABULARY_TERMS,
    Denominators,
    Distiller,
    Execution,
    LossAndTerms,
    Requirements,
    Term,
    Terms,
)
from raydistill.methods._causal_config import Config
from raydistill.models.blocks import Blocks, blocks_of, family_of
from raydistill.models.layer_plan import num_steps
from raydistill.models.vocabulary import head_at
from raydistill.user_error import UserError

__all__ = ["Config", "Method"]

CROSSWAY = "crossway_"
"""Prefix of the second direction's denominators."""

BASE_TERMS = {"ce": "kl", "mse": "mse", "mlm": "ce", "clm": "ce", "cos": "cos"}
"""Kind of loss of each term of the base pass."""

COUNTERFACTUAL_TERMS = {"causal_ce": "kl", "causal_cos": "cos"}
"""Kind of loss of each term of the counterfactual pass."""

Inputs = tuple[passes.Rows, passes.Rows]
"""Rows of the base and of the source pass."""


@dataclass(frozen=True)
class _Outputs:
    """A model and the end of one of its passes, None when nothing reads it."""

    blocks: Blocks
    layout: Layout
    end: Any
    states: Tensor | None
    """Last hidden states (R, D)."""

    def rows(self, index: Tensor) -> Tensor:
        """Last hidden states (P, D) at flat positions (P,)."""
        assert self.states is not None
        return self.states.index_select(0, self.layout.places(index))

    def head_at(self, index: Tensor) -> tuple[Tensor, Projection]:
        """Inputs (P, D') of the vocabulary projection at flat positions (P,), and the projection."""
        return head_at(self.blocks, self.end, self.layout.places(index), self.states)


class Method(Distiller[Config]):
    """Terms over one base pass and one counterfactual pass of teacher and student.

    >>> causal = rd.Causal(mapping=sites, pairing="in_batch").build(masked_student, [masked_teacher])
    >>> loss, terms = causal(masked_batch, generator=torch.Generator().manual_seed(0))
    >>> sorted(terms)
    ['causal_ce', 'ce', 'cos', 'mlm']
    """

    vanishes_for_identical_models = ("ce", "mse", "cos", "causal_ce", "causal_cos")
    directions = dict.fromkeys(("mlm", "clm", "ce", "mse", "cos", "causal_ce", "causal_cos"), False)

    def __init__(self, config: Config, student: nn.Module, teachers: Sequence[nn.Module] = ()) -> None:
        super().__init__(config, student, teachers)
        swaps = config.intervenes and not config.data_augment
        self.mapping = load_mapping(config.mapping) if swaps and config.mapping is not None else None

    @classmethod
    def requirements(cls, config: Config) -> Requirements:
        """One teacher of the same vocabulary; partners where an intervention is weighted."""
        return Requirements(
            min_teachers=1,
            max_teachers=1,
            partners=config.intervenes and config.pairing == "corpus",
            min_rows=2 if config.intervenes and config.pairing == "in_batch" else 1,
            tasks=("mlm", "clm"),
            needs=("logits", "last_states", *(["sites"] if config.intervenes and not config.data_augment else [])),
            execution=Execution(batch_dependent=config.batch_dependent, partner_width=config.partner_width),
        )

    @classmethod
    def check(cls, config: Config, student_config: Any, teacher_configs: Sequence[Any]) -> None:
        """Refuse models of other heads, of other widths under a cosine term, or without a mapped site."""
        (teacher_config,) = teacher_configs
        _check_head(config, student_config, teacher_config)
        for term in sorted(config.active & {"cos", "causal_cos"}):
            remedy = f"set method.alpha_{term} to 0 or make the widths equal"
            _check_equal("hidden_size", student_config, teacher_config, remedy)
            widths = [family_of(model).last_width(model) for model in (student_config, teacher_config)]
            if widths[0] != widths[1]:
                raise UserError(
                    f"last states are {widths[0]} wide in the student and {widths[1]} in the teacher; {remedy}"
                )
        if not config.intervenes or config.data_augment or config.mapping is None:
            return
        groups = load_mapping(config.mapping).groups
        for owner, model_config in (("teacher", teacher_config), ("student", student_config)):
            check_variables(
                [variable for group in groups for variable in getattr(group, owner)],
                owner=owner,
                num_layers=num_steps(model_config),
                num_heads=model_config.num_attention_heads,
                hidden_size=model_config.hidden_size,
            )

    @classmethod
    def prepare_batch(cls, config: Config, batch: Batch) -> Batch:
        """Draw the interchanged positions, from (seed, epoch, row id)."""
        if not config.intervenes:
            return batch
        lengths, row_ids = batch["lengths"].numpy(), batch["row_id"].numpy()
        width = batch["input_ids"].shape[1]
        if config.pairing == "in_batch":
            partners = in_batch_partners(row_ids, seed=batch.seed, epoch=batch.epoch)
            partner_lengths, partner_width = lengths[partners], width
        else:
            partner_lengths = batch[PARTNER + "lengths"].numpy()
            partner_width = batch[PARTNER + "input_ids"].shape[1]
        base, partner = interchange_positions(
            config.interchange_mode,
            lengths,
            partner_lengths,
            row_ids,
            width=width,
            partner_width=partner_width,
            proportion=config.interchange_proportion,
            max_tokens=config.max_tokens,
            padded=config.positions == "padded",
            label_index=batch["label_index"].numpy(),
            seed=batch.seed,
            epoch=batch.epoch,
        )
        if config.pairing == "in_batch":
            # Drawn as positions of the partner of row i in row i; they lie in the row that is the partner.
            partner = partners[partner // width] * width + partner % width
        return batch.with_columns(
            interchange_base=torch.from_numpy(base), interchange_partner=torch.from_numpy(partner)
        )

    def terms(self, batch: Batch) -> dict[str, Term]:
        """Means over labels for the label terms, and with masked ``kd_positions`` for those that compare logits.

        The others are means over real tokens. ``forward`` weights them, because most come from one pass over the
        vocabulary.
        """
        over_labels = {"mlm", "clm"} | ({"ce", "mse", "causal_ce"} if self.config.kd_positions == "masked" else set())
        columns = {name: "labels" if name in over_labels else "token_index" for name in sorted(self.config.active)}
        return {name: Term(batch[column].shape[0]) for name, column in columns.items()}

    def denominators(self, batch: Batch) -> dict[str, Tensor]:
        """Those of the terms; with ``crossway`` those of the second direction too."""
        counts = super().denominators(batch)
        if self.config.crossway:
            second = super().denominators(_exchanged(batch))
            counts |= {CROSSWAY + name: count for name, count in second.items()}
        return counts

    def forward(self, batch: Batch, denominators: Denominators | None = None) -> LossAndTerms:
        """See the base class; with ``crossway`` the mean of both directions."""
        if denominators is None:
            denominators = self.denominators(batch)
        loss, terms = super().forward(batch, denominators)
        if not self.config.crossway:
            return loss, terms
        second = {name: denominators[CROSSWAY + name] for name in terms}
        exchanged_loss, exchanged_terms = super().forward(_exchanged(batch), second)
        return (loss + exchanged_loss) / 2, {name: (terms[name] + exchanged_terms[name]) / 2 for name in terms}

    def add_terms(self, terms: Terms, batch: Batch) -> None:
        """See the base class; the rows of ``batch`` are the bases."""
        inputs = self._inputs(batch)
        teachers, students = self._teacher_outputs(batch, inputs), self._student_outputs(batch, inputs)
        for kinds, teacher, student in zip((BASE_TERMS, COUNTERFACTUAL_TERMS), teachers, students, strict=True):
            active = {kind: name for name, kind in kinds.items() if name in self.config.active}
            if active:
                terms.add_loss(self._compare(active, batch, student, teacher, terms))

    @torch.no_grad()
    def _teacher_outputs(self, batch: Batch, inputs: Inputs) -> tuple[_Outputs, _Outputs]:
        """Base and counterfactual pass; in eval mode both agree up to the first write."""
        needs_base = bool(self.config.active & {"ce", "mse", "cos"})
        return self._outputs(0, batch, inputs, needs_base=needs_base, shares_prefix=True)

    def _student_outputs(self, batch: Batch, inputs: Inputs) -> tuple[_Outputs, _Outputs]:
        """Base and counterfactual pass; while training each pass has its own dropout, unless they share it."""
        shares_prefix = self.config.share_student_prefix or not self.training
        needs_base = bool(self.config.active & set(BASE_TERMS))
        return self._outputs(1, batch, inputs, needs_base=needs_base, shares_prefix=shares_prefix)

    def _outputs(
        self, side: int, batch: Batch, inputs: Inputs, *, needs_base: bool, shares_prefix: bool
    ) -> tuple[_Outputs, _Outputs]:
        """Passes of the teacher (side 0) or the student (side 1)."""
        blocks = blocks_of((self.teachers[0], self.student)[side])
        self.teacher_rows += 0 if side else batch.num_rows
        base, source = inputs
        planned = passes.Passes(base, needs_base=needs_base)
        if self.config.intervenes and self.config.data_augment:
            planned = passes.Passes(base, counterfactual=self._augmented(batch, base), needs_base=needs_base)
        elif self.mapping is not None:
            planned = passes.Passes(
                base,
                source=None if source is base and shares_prefix else source,
                counterfactual=None if shares_prefix else base,
                interchange=passes.Interchange(
                    self._columns(side, batch, blocks),
                    base.layout.places(batch["interchange_base"]),
                    source.layout.places(batch["interchange_partner"]),
                    self.config.site_offset,
                ),
                needs_base=needs_base,
            )
        first, second = (
            _Outputs(blocks, base.layout, end, None if end is None else blocks.states_of(end))
            for end in passes.run(blocks, planned)
        )
        return first, second

    def _inputs(self, batch: Batch) -> Inputs:
        """Rows of the base and of the source pass; the same where partners are in the batch or no state is read."""
        base = self._rows(batch, "")
        is_source = self.mapping is None or self.config.pairing == "in_batch"
        return base, base if is_source else self._rows(batch, PARTNER)

    def _rows(self, batch: Batch, prefix: str) -> passes.Rows:
        """Token ids of the real tokens, or where padding enters the loss of all places."""
        mask = batch[prefix + "attention_mask"]
        index = batch[prefix + "token_index"]
        if self.config.computes_padding:
            index = torch.arange(mask.numel(), device=mask.device)
        layout = Layout.of(mask, index)
        return passes.Rows(layout.take(batch[prefix + "input_ids"]), layout)

    def _augmented(self, batch: Batch, base: passes.Rows) -> passes.Rows:
        """The base with the partner's tokens at the interchanged positions."""
        partner = batch[("" if self.config.pairing == "in_batch" else PARTNER) + "input_ids"]
        tokens = partner.flatten().index_select(0, batch["interchange_partner"])
        places = base.layout.places(batch["interchange_base"])
        return passes.Rows(base.ids.index_copy(0, places, tokens), base.layout)

    def _columns(self, side: int, batch: Batch, blocks: Blocks) -> passes.Columns:
        """Columns written in each block in this step or micro-batch, blocks ascending."""
        assert self.mapping is not None
        keys = (batch.step,) if self.config.site_draw == "step" else (batch.step, batch.micro_batch)
        sites = draw(self.mapping, batch.seed, *keys)[side]
        return columns_by_layer(sites, num_heads=blocks.num_heads, hidden_size=blocks.hidden_size)

    def _compare(
        self, active: dict[str, str], batch: Batch, student: _Outputs, teacher: _Outputs, terms: Terms
    ) -> Tensor:
        """The loss of one pass, whose terms are logged; ``active`` has the terms' names by kind of loss."""
        alphas, losses = self.config.alphas, []
        if "cos" in active:
            name, tokens = active["cos"], batch["token_index"]
            distances = cosine_distance(student.rows(tokens), teacher.rows(tokens))
            losses.append(alphas[name] * terms.log(name, distances))
        weights = {kind: alphas[name] / terms.denominators[name] for kind, name in active.items() if kind != "cos"}
        if weights:
            index = self._compared(batch, weights.keys())
            loss, sums = vocabulary_losses(
                *student.head_at(index),
                *(_teacher_head(teacher, index) if set(weights) != {"ce"} else (None, None)),
                weights=weights,
                labels=batch["labels"] if "ce" in weights else None,
                temperature=self.config.temperature,
                divergence=self.config.measure,
            )
            losses.append(loss)
            for kind, value in sums.items():
                terms.log(active[kind], value)
        return torch.stack(losses).sum()

    def _compared(self, batch: Batch, kinds: Collection[str]) -> Tensor:
        """Flat positions (R,) whose logits enter these kinds of loss; with labels, the labelled ones first."""
        if set(kinds) == {"ce"} or self.config.kd_positions == "masked":
            return batch["label_index"]
        return labels_first(batch) if "ce" in kinds else batch["token_index"]


@torch.no_grad()
def _teacher_head(teacher: _Outputs, index: Tensor) -> tuple[Tensor, Projection]:
    return teacher.head_at(index)


def _exchanged(batch: Batch) -> Batch:
    """The batch with bases and partners in each other's place; in-batch partners exchange only positions."""
    swapped = {"interchange_base": batch["interchange_partner"], "interchange_partner": batch["interchange_base"]}
    for name in batch.columns:
        if name.startswith(PARTNER):
            swapped |= {name: batch[name.removeprefix(PARTNER)], name.removeprefix(PARTNER): batch[name]}
    return batch.with_columns(**swapped)


def _check_head(config: Config, student_config: Any, teacher_config: Any) -> None:
    """Refuse a label term that belongs to another kind of model, and options that only masked models have."""
    heads = [family_of(model).vocabulary_head(model) for model in (student_config, teacher_config)]
    if heads[0] != heads[1]:
        raise UserError(f"the student is a {heads[0]} model and the teacher a {heads[1]} model; choose two of one kind")
    term = VOCABULARY_TERMS[str(heads[0])]
    for other in sorted(config.active & set(VOCABULARY_TERMS.values()) - {term}):
        raise UserError(
            f"method.alpha_{other} is {config.alphas[other]}, but {student_config.model_type} is a {heads[0]} model; "
            f"set it to 0 and method.alpha_{term} instead"
        )
    if heads[0] == "causal_lm" and config.intervenes and config.interchange_mode == "masked":
        raise UserError(
            f"method.interchange_mode is 'masked', but {student_config.model_type} masks no token; change it"
        )
    if heads[0] == "causal_lm" and config.computes_padding:
        raise UserError("method.positions is 'padded', which only masked models take; set it to valid")


def _check_equal(key: str, student_config: Any, teacher_config: Any, remedy: str) -> None:
    student, teacher = getattr(student_config, key), getattr(teacher_config, key)
    if student != teacher:
        raise UserError(f"{key} is {student} in the student and {teacher} in the teacher; {remedy}")
