"""A student, its teachers and the loss between them, called with the padded batches of transformers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from raydistill import discovery
from raydistill.api.padded import drawn_seed, packed_batch
from raydistill.batch import PARTNER, Batch
from raydistill.methods._base import Denominators, Distiller, LossAndTerms, Requirements, stored_name
from raydistill.models.blocks import blocks_of
from raydistill.models.heads import CLASSIFIERS, VOCABULARY_HEADS, head_of
from raydistill.user_error import UserError

_TASKS = "raydistill.tasks"
_ROWS_HEAD = "sequence_classification"
"""The only head whose rows need no label to tell where there is a prediction."""


class Distillation(nn.Module):
    """What ``build`` of a method returns: a module that makes a loss of a padded batch.

    ``parameters()`` are the student's and those of trainable adapters between the models; teachers are frozen, in
    evaluation mode, and follow ``to(device)``. It starts in training mode, with the student.

    Shapes: a batch has B rows of T places; the loss and each term are 0-d, means in nats, or in squared units of the
    scores or states that they compare, see the method. Raises ValueError, with one line, for a batch that lacks what
    the method reads. Source: that of the method.

    >>> distillation = rd.KD(alpha=0.5, temperature=2).build(student, [teacher])
    >>> loss, terms = distillation(batch)
    >>> bool(torch.isclose(loss, 0.5 * terms["ce"] + 0.5 * terms["kd"]))
    True
    """

    def __init__(self, name: str, distiller: Distiller, requirements: Requirements) -> None:
        super().__init__()
        self.name = name
        self.distiller = distiller
        self.requirements = requirements
        self.train()

    @property
    def student(self) -> nn.Module:
        """The model that learns."""
        return self.distiller.student

    @property
    def teachers(self) -> tuple[nn.Module, ...]:
        """The frozen models that it learns from."""
        return self.distiller.teachers

    @property
    def device(self) -> torch.device:
        """Where the student is."""
        return next(self.student.parameters()).device

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        for teacher in self.teachers:
            teacher._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def forward(
        self,
        batch: Batch | Mapping[str, Any],
        *,
        denominators: Denominators | None = None,
        generator: torch.Generator | None = None,
    ) -> LossAndTerms:
        """The 0-d loss, with gradient, and the 0-d detached terms by their names.

        ``batch`` is a padded one, see ``prepare``, which takes ``generator``, or one that it has prepared. Each term is
        a sum over the batch divided by its denominator: by default the batch's own, else those of several batches
        together, whose losses and terms then add up to those of all their rows.
        """
        if not isinstance(batch, Batch):
            batch = self.prepare(batch, generator=generator)
        found: LossAndTerms = self.distiller(batch, denominators)
        return found

    def prepare(
        self,
        batch: Mapping[str, Any],
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        **keys: int,
    ) -> Batch:
        """The packed batch, with what the method draws for itself: spans, partners among the rows, chosen rows.

        ``batch`` has ``input_ids`` (B, T) int64, ``attention_mask`` and ``token_type_ids`` (B, T), and labels as the
        student's model of transformers takes them: ``labels`` (B,) or (B, T) with -100 where there is none, or
        ``start_positions`` and ``end_positions`` (B,). Further columns that methods read are ``row_id`` (B,),
        ``partner_*``, the same of a partner of each row, and stored outputs such as ``teacher_0_logits`` (B, C).

        Draws are a function of ``seed``, by default drawn from ``generator`` or torch's own, of the row ids and of
        ``keys``: ``epoch``, ``step`` and ``micro_batch``, from 0.
        """
        made = packed_batch(
            batch,
            head=self.distiller.head,
            scores=self.distiller.head == _ROWS_HEAD and self._config.num_labels == 1,
            seed=drawn_seed(generator) if seed is None else seed,
            **{"epoch": 0, "step": 0, **keys},
        )
        self._check_batch(made)
        return self.distiller.prepare_batch(self.distiller.config, made).to(self.device)

    def denominators(self, batch: Batch | Mapping[str, Any]) -> dict[str, Tensor]:
        """By a term's name how many values of this batch it averages over, 0-d float64; runs no model."""
        prepared = batch if isinstance(batch, Batch) else self.prepare(batch)
        return self.distiller.denominators(prepared)

    @property
    def _config(self) -> Any:
        return self.student.config

    def _check_batch(self, batch: Batch) -> None:
        needs, head = self.requirements, self.distiller.head
        if "labels" not in batch and (needs.labels or head != _ROWS_HEAD):
            columns = "start_positions and end_positions" if head == "question_answering" else "labels"
            raise UserError(f"method {self.name} with these options reads {columns}, which the batch lacks; add them")
        if needs.partners and PARTNER + "input_ids" not in batch:
            raise UserError(
                f"method {self.name} with these options needs a partner of each row; give partner_input_ids and "
                "partner_attention_mask, or pairing='in_batch'"
            )
        width, pad_to = batch["input_ids"].shape[1], needs.execution.pad_to
        if pad_to not in (None, width):
            raise UserError(f"pad_to is {pad_to}, but rows have {width} places; pad them to max_length={pad_to}")
        if batch.num_rows < needs.min_rows:
            raise UserError(
                f"method {self.name} with these options needs {needs.min_rows} rows in a batch, this one has "
                f"{batch.num_rows}; make it larger, and drop the last one of an epoch if it is smaller"
            )
        if not self.teachers and needs.min_teachers:
            missing = [stored_name(0, kind) for kind in needs.stored if stored_name(0, kind) not in batch]
            if missing:
                raise UserError(f"there is no teacher to run; give build one, or {missing[0]} in each batch")


def build(
    name: str, method: type[Distiller], config: Any, student: Any, teachers: Sequence[Any], options: Mapping[str, Any]
) -> Distillation:
    """The module around a student and its teachers; raises ValueError with one line for models that do not fit."""
    needs = method.requirements(config)
    _check_number(name, needs, len(teachers))
    head = _check_heads(name, needs, student, teachers)
    if not needs.execution.partial_label_space and head in CLASSIFIERS:
        _check_classes(student, teachers)
    if not needs.stored:
        _check_types(name, student, teachers)
    for model in (student, *teachers):
        blocks_of(model)
    if teachers or not needs.min_teachers:
        configs = [teacher.config for teacher in teachers]
        if head in VOCABULARY_HEADS:
            _check_vocabularies(student, teachers)
        method.check(config, student.config, configs)
        method.check_running(config, configs)
    return Distillation(name, method(config, student, teachers, **options), needs)


def _check_number(name: str, needs: Requirements, number: int) -> None:
    most = needs.max_teachers
    stored = number == 0 and bool(needs.stored)
    if (number >= needs.min_teachers or stored) and (most is None or number <= most):
        return
    wanted = f"{needs.min_teachers}" if most == needs.min_teachers else f"{needs.min_teachers} to {most or 'any'}"
    raise UserError(f"teachers has {number}; method {name} with these options takes {wanted}")


def _check_heads(name: str, needs: Requirements, student: Any, teachers: Sequence[Any]) -> str:
    """The head of all models; raises ValueError for different ones, and for one that the method does not train."""
    head = head_of(student)
    heads = [*needs.heads, *(discovery.load(_TASKS, task).Task.HEAD for task in needs.tasks)]
    if heads and head not in heads:
        raise UserError(
            f"the student has a {head} head; method {name} with these options works with {', '.join(heads)}"
        )
    for number, teacher in enumerate(teachers):
        if head_of(teacher) != head:
            raise UserError(f"teachers.{number} has a {head_of(teacher)} head, the student a {head} head; use equals")
    return head


def _check_vocabularies(student: Any, teachers: Sequence[Any]) -> None:
    for number, teacher in enumerate(teachers):
        own, found = student.config.vocab_size, teacher.config.vocab_size
        if found != own:
            raise UserError(
                f"vocab_size is {own} in the student and {found} in teachers.{number}; if both have one tokenizer, cut "
                "each with resize_token_embeddings(len(tokenizer)), or use a job, which compares its ids alone"
            )


def _check_types(name: str, student: Any, teachers: Sequence[Any]) -> None:
    """Refuse other precisions than the student's where states are compared; logits are widened."""
    for number, teacher in enumerate(teachers):
        if teacher.dtype != student.dtype:
            raise UserError(
                f"teachers.{number} is {teacher.dtype}, the student {student.dtype}, and method {name} compares their "
                "states; load both in one type"
            )


def _check_classes(student: Any, teachers: Sequence[Any]) -> None:
    """Refuse teachers whose outputs stand for other classes, or for the same in another order."""
    own = _classes(student)
    for number, teacher in enumerate(teachers):
        found = _classes(teacher)
        if found != own:
            raise UserError(
                f"teachers.{number} has the classes {', '.join(found)}, the student {', '.join(own)}; give both the "
                "same id2label in the same order"
            )


def _classes(model: Any) -> list[str]:
    return [str(model.config.id2label[number]) for number in sorted(model.config.id2label)]
