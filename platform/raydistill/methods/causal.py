"""Causal distillation (DIITO): match a teacher's outputs, also under interchange interventions.

Wu, Geiger, Rozner, Kreiss, Lu, Icard, Potts and Goodman 2022, "Causal Distillation for Language Models", NAACL;
published code frankaging/Causal-Distill @ 473600b. Terms, shapes and deviations: see README.md in this folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.batch import PARTNER, Batch
from raydistill.interventions.interchange import read, write
from raydistill.interventions.positions import consecutive_positions
from raydistill.interventions.sites import (
    PRESETS,
    check_variables,
    columns_by_layer,
    draw,
    load_mapping,
    resolve_mapping,
)
from raydistill.losses.chunked_head import Projection, vocabulary_losses
from raydistill.losses.hidden_states import cosine_distance
from raydistill.losses.reduction import mean_over
from raydistill.methods._base import Distiller, Requirements
from raydistill.models.blocks import Blocks, blocks_of

Columns = dict[int, tuple[slice, ...]]

BASE_TERMS = {"kl": "ce", "mse": "mse", "ce": "mlm", "cos": "cos"}
"""Terms of the base pass, by the kind of loss."""

COUNTERFACTUAL_TERMS = {"kl": "causal_ce", "cos": "causal_cos"}
"""Terms of the counterfactual pass, by the kind of loss."""

PASS_TERMS = (BASE_TERMS, COUNTERFACTUAL_TERMS)


@dataclass(frozen=True)
class Config:
    """Weights of the terms and the intervention; defaults are the published ones."""

    alpha_ce: float = 0.25
    """Weight of the KL divergence to the teacher, over all tokens."""
    alpha_mlm: float = 0.25
    """Weight of the masked-LM cross-entropy."""
    alpha_cos: float = 0.25
    """Weight of the cosine distance of the last hidden states, over all tokens."""
    alpha_causal_ce: float = 0.25
    """Weight of the KL divergence under intervention, over all tokens of the base."""
    alpha_causal_cos: float = 0.0
    """Weight of the cosine distance of the last hidden states under intervention."""
    alpha_mse: float = 0.0
    """Weight of the squared error of the logits, over all tokens."""
    temperature: float = 2.0
    """Softens both KL divergences, which are multiplied by its square."""
    mapping: str | dict[str, Any] | None = None
    """Which activations are interchanged: a preset (``middle_6``), the path of a ``.nm`` file, which is read at
    once, or such a file's content. Needed while a causal weight is positive."""
    interchange_proportion: float = 0.3
    """Share of the shorter of a row and its partner that is interchanged, as one span."""
    max_tokens: int | None = None
    """Most positions of a row that are interchanged, None for no limit."""
    site_offset: int = 0
    """0 reads the input of the block whose output is written, as published; 1 reads its output."""

    def __post_init__(self) -> None:
        for name, weight in self.alphas.items():
            if not 0 <= weight < float("inf"):
                raise ValueError(f"alpha_{name} is {weight}; a weight must be a number that is not negative")
        if not any(self.alphas.values()):
            raise ValueError("all alphas are 0, so there is no loss; give at least one a positive weight")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it must be positive")
        if not 0 < self.interchange_proportion <= 1:
            raise ValueError(f"interchange_proportion is {self.interchange_proportion}; it must be in (0, 1]")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}; it must be at least 1, or null for no limit")
        if self.site_offset not in (0, 1):
            raise ValueError(f"site_offset is {self.site_offset}; choices: 0 (published), 1 (aligned)")
        self._resolve_mapping()

    def _resolve_mapping(self) -> None:
        if self.mapping is not None:
            object.__setattr__(self, "mapping", resolve_mapping(self.mapping))
            load_mapping(self.mapping)
        elif self.intervenes:
            raise ValueError(
                "mapping is missing while alpha_causal_ce or alpha_causal_cos is positive; give a preset "
                f"({', '.join(sorted(PRESETS))}) or a .nm file, or set both weights to 0"
            )

    @property
    def alphas(self) -> dict[str, float]:
        """Weight of each term, by the term's name."""
        return {
            "ce": self.alpha_ce,
            "mlm": self.alpha_mlm,
            "mse": self.alpha_mse,
            "cos": self.alpha_cos,
            "causal_ce": self.alpha_causal_ce,
            "causal_cos": self.alpha_causal_cos,
        }

    @property
    def active(self) -> frozenset[str]:
        """Names of the terms with a positive weight; the others cost nothing."""
        return frozenset(name for name, weight in self.alphas.items() if weight > 0)

    @property
    def intervenes(self) -> bool:
        """Whether any term needs the counterfactual passes."""
        return bool(self.active & {"causal_ce", "causal_cos"})


@dataclass(frozen=True)
class _Pass:
    """A model and the last hidden states (B, T, D) of one of its passes, None when nothing reads them."""

    blocks: Blocks
    hidden: Tensor | None

    def rows(self, index: Tensor) -> Tensor:
        """Last hidden states (R, D) at flat positions (R,)."""
        assert self.hidden is not None
        return self.hidden.flatten(0, 1).index_select(0, index)


class Method(Distiller):
    """Six terms over one base pass and one counterfactual pass of teacher and student."""

    zero_at_teacher = ("ce", "mse", "cos", "causal_ce", "causal_cos")

    def __init__(self, config: Config, student: nn.Module, teachers: Sequence[nn.Module] = ()) -> None:
        super().__init__(config, student, teachers)
        self.mapping = load_mapping(config.mapping) if config.mapping is not None and config.intervenes else None

    @classmethod
    def requirements(cls, config: Config) -> Requirements:
        """One teacher of the same vocabulary; partners where an intervention is weighted."""
        return Requirements(
            min_teachers=1,
            max_teachers=1,
            partners=config.intervenes,
            tasks=("mlm",),
            equal_widths=bool(config.active & {"cos", "causal_cos"}),
            equal_vocabularies=True,
        )

    @classmethod
    def check(cls, config: Config, student_config: Any, teacher_configs: Sequence[Any]) -> None:
        """Refuse models of other vocabularies, of other widths under a cosine term, or without a mapped site."""
        (teacher_config,) = teacher_configs
        _check_equal("vocab_size", student_config, teacher_config, "teacher and student must share one tokenizer")
        for term in sorted(config.active & {"cos", "causal_cos"}):
            remedy = f"set method.alpha_{term} to 0 or make the widths equal"
            _check_equal("hidden_size", student_config, teacher_config, remedy)
        if not config.intervenes or config.mapping is None:
            return
        groups = load_mapping(config.mapping).groups
        for owner, model_config in (("teacher", teacher_config), ("student", student_config)):
            check_variables(
                [variable for group in groups for variable in getattr(group, owner)],
                owner=owner,
                num_layers=model_config.num_hidden_layers,
                num_heads=model_config.num_attention_heads,
                hidden_size=model_config.hidden_size,
            )

    @classmethod
    def prepare_batch(cls, config: Config, batch: Batch) -> Batch:
        """Draw the interchanged positions, from (seed, epoch, row id)."""
        if not config.intervenes:
            return batch
        base, partner = consecutive_positions(
            batch["lengths"].numpy(),
            batch[PARTNER + "lengths"].numpy(),
            batch["row_id"].numpy(),
            width=batch["input_ids"].shape[1],
            partner_width=batch[PARTNER + "input_ids"].shape[1],
            proportion=config.interchange_proportion,
            max_tokens=config.max_tokens,
            seed=batch.seed,
            epoch=batch.epoch,
        )
        return batch.with_columns(
            interchange_base=torch.from_numpy(base), interchange_partner=torch.from_numpy(partner)
        )

    def denominators(self, batch: Batch) -> dict[str, Tensor]:
        """Labels for ``mlm``, real tokens of the base for every other term."""
        counts = {name: "labels" if name == "mlm" else "token_index" for name in self.config.active}
        return {
            name: batch[column].new_full((), batch[column].shape[0], dtype=torch.float64)
            for name, column in sorted(counts.items())
        }

    def forward(self, batch: Batch, denominators: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the active terms and each of them; see the base class for the denominators."""
        teacher, student = blocks_of(self.teachers[0]), blocks_of(self.student)
        teacher_columns, student_columns = self._columns(batch, teacher, student)
        with torch.no_grad():
            teacher_passes = self._teacher_passes(teacher, batch, teacher_columns)
        student_passes = self._student_passes(student, batch, student_columns)
        counts = {name: count.clamp(min=1) for name, count in denominators.items()}
        losses: list[Tensor] = []
        terms: dict[str, Tensor] = {}
        for names, of_student, of_teacher in zip(PASS_TERMS, student_passes, teacher_passes, strict=True):
            active = {kind: name for kind, name in names.items() if name in self.config.active}
            if active:
                loss, found = self._compare(active, batch, of_student, of_teacher, counts)
                losses.append(loss)
                terms.update(found)
        return torch.stack(losses).sum(), terms

    def _columns(self, batch: Batch, teacher: Blocks, student: Blocks) -> tuple[Columns, Columns]:
        """Columns written in each layer of the teacher and of the student in this step, layers ascending."""
        if self.mapping is None:
            return {}, {}
        sites = draw(self.mapping, batch.seed, batch.step)
        teacher_columns, student_columns = (
            columns_by_layer(variable, num_heads=blocks.num_heads, hidden_size=blocks.hidden_size)
            for variable, blocks in zip(sites, (teacher, student), strict=True)
        )
        return teacher_columns, student_columns

    def _teacher_passes(self, blocks: Blocks, batch: Batch, columns: Columns) -> tuple[_Pass, _Pass]:
        """Base pass, and the counterfactual pass resumed from it: in eval mode both agree up to the first write."""
        mask = batch["attention_mask"]
        compares_base = bool(self.config.active & {"ce", "mse", "cos"})
        base = counterfactual = None
        if columns or compares_base:
            resumed_from = min(columns) + 1 if columns else 0
            hidden = blocks.run(blocks.embed(batch["input_ids"], mask), mask, 0, resumed_from)
            if compares_base:
                base = blocks.run(hidden, mask, resumed_from, blocks.num_blocks)
            if columns:
                values = source_values(blocks, batch, columns, site_offset=self.config.site_offset)
                counterfactual = run_with_writes(blocks, batch, (hidden, resumed_from), columns, values)
        return _Pass(blocks, base), _Pass(blocks, counterfactual)

    def _student_passes(self, blocks: Blocks, batch: Batch, columns: Columns) -> tuple[_Pass, _Pass]:
        """Base, source and counterfactual pass, each with its own dropout."""
        mask = batch["attention_mask"]
        base = counterfactual = None
        if self.config.active & set(BASE_TERMS.values()):
            base = blocks.run(blocks.embed(batch["input_ids"], mask), mask, 0, blocks.num_blocks)
        if columns:
            values = source_values(blocks, batch, columns, site_offset=self.config.site_offset)
            embedded = blocks.embed(batch["input_ids"], mask)
            counterfactual = run_with_writes(blocks, batch, (embedded, 0), columns, values)
        return _Pass(blocks, base), _Pass(blocks, counterfactual)

    def _compare(
        self, active: dict[str, str], batch: Batch, student: _Pass, teacher: _Pass, counts: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum and terms of one pass; ``active`` has the terms' names by kind of loss."""
        alphas = self.config.alphas
        labels = batch["labels"] if "ce" in active else None
        index = batch["token_index"] if labels is None else labels_first(batch)
        states = student.rows(index)
        losses, terms = [], {}
        if "cos" in active:
            name = active["cos"]
            term = mean_over(cosine_distance(states, teacher.rows(index)), counts[name])
            losses.append(alphas[name] * term)
            terms[name] = term.detach()
        weights = {kind: alphas[name] / counts[name] for kind, name in active.items() if kind != "cos"}
        if weights:
            if labels is not None and set(weights) == {"ce"}:
                index, states = index[: labels.shape[0]], states[: labels.shape[0]]
            loss, sums = vocabulary_losses(
                student.blocks.head_states(states),
                student.blocks.head_projection(),
                *(_teacher_head(teacher, index) if set(weights) != {"ce"} else (None, None)),
                weights=weights,
                labels=labels,
                temperature=self.config.temperature,
            )
            losses.append(loss)
            terms.update({active[kind]: value / counts[active[kind]].to(value.dtype) for kind, value in sums.items()})
        return torch.stack(losses).sum(), terms


@torch.no_grad()
def _teacher_head(teacher: _Pass, index: Tensor) -> tuple[Tensor, Projection]:
    return teacher.blocks.head_states(teacher.rows(index)), teacher.blocks.head_projection()


def labels_first(batch: Batch) -> Tensor:
    """Flat positions (R,) of the real tokens: first the M labelled ones, then the others, each ascending."""
    tokens = batch["token_index"]
    labelled = torch.zeros_like(batch["attention_mask"], dtype=torch.int8).flatten()
    labelled = labelled.index_fill(0, batch["label_index"], 1).index_select(0, tokens)
    return tokens.index_select(0, torch.argsort(labelled, descending=True, stable=True))


def source_values(blocks: Blocks, batch: Batch, columns: Columns, *, site_offset: int) -> dict[int, Tensor]:
    """What the partner's pass holds for each written layer L: columns of the input of block L, or with
    ``site_offset`` 1 of its output, at ``interchange_partner``. Returns (P, C) by layer; runs no deeper block.
    """
    mask = batch[PARTNER + "attention_mask"]
    hidden = blocks.embed(batch[PARTNER + "input_ids"], mask)
    values, depth = {}, 0
    for layer, slices in sorted(columns.items()):
        hidden = blocks.run(hidden, mask, depth, layer + site_offset)
        depth = layer + site_offset
        values[layer] = read(hidden, batch["interchange_partner"], slices)
    return values


def run_with_writes(
    blocks: Blocks, batch: Batch, resumed_from: tuple[Tensor, int], columns: Columns, values: dict[int, Tensor]
) -> Tensor:
    """Run the base from the input of a block, overwriting the output of each written layer; last hidden states.

    ``resumed_from`` is that input (B, T, D) and the block's number, at most one past the lowest written layer.
    """
    mask = batch["attention_mask"]
    hidden, start = resumed_from
    for layer, slices in sorted(columns.items()):
        hidden = blocks.run(hidden, mask, start, layer + 1)
        hidden = write(hidden, batch["interchange_base"], slices, values[layer])
        start = layer + 1
    return blocks.run(hidden, mask, start, blocks.num_blocks)


def _check_equal(key: str, student_config: Any, teacher_config: Any, remedy: str) -> None:
    student, teacher = getattr(student_config, key), getattr(teacher_config, key)
    if student != teacher:
        raise ValueError(f"{key} is {student} in the student and {teacher} in the teacher; {remedy}")
