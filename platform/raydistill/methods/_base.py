"""The contract that every method keeps: what it needs, which terms it has, and a loss from a batch."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from raydistill.batch import Batch, encoded_as
from raydistill.losses.reduction import mean_over
from raydistill.models.blocks import family_of
from raydistill.models.load import head_of
from raydistill.models.offloading import weights_present
from raydistill.models.predictions import Prediction, predict
from raydistill.user_error import UserError

VOCABULARY_TERMS = {"masked_lm": "mlm", "causal_lm": "clm"}
"""Heads over a vocabulary, and the name of the term of each one's labels."""
CLASSIFYING = ("sequence_classification", "token_classification", "question_answering")
"""Heads whose logits ``predict`` gives."""

_MOST_WEIGHT = 1e6
_TEMPERATURES = (1e-3, 1e4)
"""Beyond these logits divided by one are infinite or equal in float32, or its square outweighs all else."""

Denominators = Mapping[str, Tensor]
"""By a term's name the 0-d count that its sum is divided by."""
STATES = ("logits", "last_states", "all_states")
"""What methods need that compare the hidden states of tokens."""
LossAndTerms = tuple[Tensor, dict[str, Tensor]]
"""The 0-d loss, and the 0-d detached terms by their names."""


@dataclass(frozen=True)
class Execution:
    """How the runtime may run a method."""

    batch_dependent: bool = False
    """Whether the loss of a row depends on the other rows of its micro-batch, or on the micro-batch's number."""
    batch_dependent_when_live: bool = False
    """Whether that is so only while teachers run: their stored outputs belong to each row."""
    partner_width: str = "bucket"
    """Where partners are cut: ``bucket``, at the upper edge of the base row's length bucket, or ``batch``, at the
    padded width of the base's micro-batch, as published."""
    pad_to: int | None = None
    """Places that each row is padded to, for a loss that compares padding; None: those of its micro-batch."""
    sequential_teachers: bool = False
    """Whether all teachers run inside ``weights_present``, so that only one at a time needs its weights in place."""
    cross_tokenizer: bool = False
    """Whether a teacher may use another tokenizer than the student; not possible where tokens are aligned."""
    partial_label_space: bool = False
    """Whether each teacher may know only some of the student's classes. Such a method is given ``teacher_labels``: for
    each teacher the names of its logits, in the student's order of classes; empty if its ``config.id2label`` holds."""


@dataclass(frozen=True)
class Requirements:
    """What a method needs before any cluster time is spent, and how it may be run."""

    min_teachers: int = 0
    """Fewest teachers the method works with."""
    max_teachers: int | None = 0
    """Most teachers, None for any number."""
    partners: bool = False
    """Whether each row needs a partner row of the corpus."""
    min_rows: int = 1
    """Fewest rows of a micro-batch."""
    heads: tuple[str, ...] = ()
    """Task heads that the method can train; empty means all."""
    tasks: tuple[str, ...] = ()
    """Names of the tasks that the method can train; empty means all with these heads."""
    needs: tuple[str, ...] = ("logits",)
    """What it reads of its models, or does to them, while they run: names of ``models.blocks.NEEDS``."""
    stored: tuple[str, ...] = ()
    """Kinds of teacher outputs that the method reads and also takes from a store; empty where teachers must run."""
    stored_of_vocabulary: tuple[str, ...] = ()
    """The same of teachers with a head over a vocabulary."""
    teacher_of: Mapping[str, int] = field(default_factory=dict)
    """By the name of each corpus the number of its teacher, which batches then have as ``teacher_number``; empty where
    every teacher is asked about all rows."""
    labels: bool = True
    """Whether the loss reads the labels of rows; if not, batches may come without any."""
    execution: Execution = field(default_factory=Execution)
    """How the runtime may run it."""


@dataclass(frozen=True)
class Term:
    """The declaration of a term: what it is a mean over, and its weight in the loss."""

    count: int
    """How many values of this batch enter the mean: rows, labels or tokens."""
    weight: float | None = None
    """Factor of the term in the loss. None: it is only logged, or the method adds its part of the loss by itself."""


class Terms:
    """Collects the terms of one forward pass: each a sum over its denominator, and their weighted sum, the loss."""

    def __init__(self, declared: Mapping[str, Term], denominators: Denominators) -> None:
        self.denominators = {name: denominators[name].clamp(min=1) for name in declared}
        """Divisors of the declared terms, at least 1, so that a term without values is 0."""
        self._declared = declared
        self._losses: list[Tensor] = []
        self._values: dict[str, Tensor] = {}

    def add(self, name: str, values: Tensor) -> None:
        """Add a term, given one value for each row, label or token, to the loss with its declared weight."""
        weight, mean = self._declared[name].weight, self.log(name, values)
        if weight is not None:
            self._losses.append(weight * mean)

    def add_loss(self, loss: Tensor) -> None:
        """Add a part of the loss that has its weight already."""
        self._losses.append(loss)

    def log(self, name: str, values: Tensor) -> Tensor:
        """Log a term without adding it to the loss; returns it with its gradient."""
        mean = mean_over(values, self.denominators[name])
        self.record(name, mean)
        return mean

    def record(self, name: str, value: Tensor) -> None:
        """Log a term that is divided already."""
        self._values[name] = value.detach()

    def result(self) -> LossAndTerms:
        """The loss, and the detached, unweighted terms."""
        return torch.stack(self._losses).sum(), self._values


ConfigT = TypeVar("ConfigT")
"""The type of a method's options."""


class Distiller(nn.Module, ABC, Generic[ConfigT]):
    """A student, its frozen teachers and the loss between them, as one module that an engine can wrap.

    ``parameters()`` and ``state_dict()`` hold the student under ``student.`` and trainable adapters, never a
    teacher: teachers are kept in a tuple, which ``nn.Module`` does not register.
    """

    vanishes_for_identical_models: ClassVar[tuple[str, ...]] = ()
    """Names of the terms that are 0 when the student equals its teacher."""
    directions: ClassVar[Mapping[str, bool | None]] = {}
    """Of all terms that it may have whether a greater value is better, None where neither is: a loss is not, a fraction
    of equal predictions is, a weight is neither. ``#`` stands for the number of a teacher."""

    def __init__(self, config: ConfigT, student: nn.Module, teachers: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.config = config
        self.student = student
        self.teachers = tuple(teachers)
        self.encodings: tuple[int, ...] = ()
        """For each teacher the encoding that it reads, see ``batch.encoded_as``; empty if all read the student's."""
        self.teacher_rows = 0
        """Number of rows that teachers have run on, counted for each teacher and each pass over a batch."""
        for teacher in self.teachers:
            teacher.requires_grad_(False).eval()

    @cached_property
    def head(self) -> str:
        """The student's task head."""
        return head_of(self.student)

    @classmethod
    @abstractmethod
    def requirements(cls, config: ConfigT) -> Requirements:
        """What this configuration needs; loads nothing."""

    @classmethod
    def check(cls, config: ConfigT, student_config: Any, teacher_configs: Sequence[Any]) -> None:
        """Refuse models that this configuration cannot work with; reads model configurations, loads no weights.

        Raises ValueError naming the key, its value and the remedy.
        """

    @classmethod
    def check_running(cls, config: ConfigT, teacher_configs: Sequence[Any]) -> None:
        """Refuse teachers that cannot run as this configuration runs them; not called when stored outputs are read.

        Raises ValueError naming the key, its value and the remedy.
        """

    @classmethod
    def check_top_k(cls, config: ConfigT, *, positions: str, temperature: float) -> None:
        """Refuse stored likeliest ids of teachers, kept at ``positions`` as kd has them and at a temperature.

        Called where they are read.

        Raises ValueError naming the key, its value and the remedy.
        """

    @classmethod
    def stored_layers(cls, config: ConfigT, student_config: Any, teacher_config: Any) -> tuple[int, ...]:
        """Numbers k of the hidden states hs[k] whose CLS states are read of a teacher, when those are stored."""
        return ()

    @classmethod
    def prepare_batch(cls, config: ConfigT, batch: Batch) -> Batch:
        """Add the columns that the method draws for itself; runs on the CPU in the data tasks."""
        return batch

    @abstractmethod
    def terms(self, batch: Batch) -> dict[str, Term]:
        """Declare every term of this batch, by its name; runs no model."""

    @abstractmethod
    def add_terms(self, terms: Terms, batch: Batch) -> None:
        """Run the models and add every declared term."""

    def denominators(self, batch: Batch) -> dict[str, Tensor]:
        """How many values each term averages over, 0-d float64 tensors on the batch's device; runs no model."""
        like = batch["row_id"]
        return {name: like.new_full((), term.count, dtype=torch.float64) for name, term in self.terms(batch).items()}

    def forward(self, batch: Batch, denominators: Denominators | None = None) -> LossAndTerms:
        """The loss and the detached, unweighted terms, each a sum over the batch divided by its denominator.

        ``denominators`` are totals over all micro-batches and ranks of the optimizer step, so that the terms of
        all micro-batches and ranks add up to the terms of the global batch. By default they are the batch's own.
        """
        terms = Terms(self.terms(batch), self.denominators(batch) if denominators is None else denominators)
        self.add_terms(terms, batch)
        return terms.result()

    def teacher_logits(self, batch: Batch, *, number: int = 0) -> Tensor:
        """Logits (N, C) of a teacher, without gradient: from the batch, where they are stored, or by running it."""
        stored = batch.get(stored_name(number, "logits"))
        return self.run_teacher(batch, number=number).logits if stored is None else stored

    @torch.no_grad()
    def run_teacher(self, batch: Batch, *, number: int = 0, with_states: bool = False) -> Prediction:
        """A teacher's logits and, on request, hidden states, without gradient; it reads its own encoding."""
        self.teacher_rows += batch.num_rows
        teacher = self.teachers[number]
        encoded = encoded_as(batch, self.encoding_of(number))
        with weights_present(teacher):
            return predict(teacher, encoded, head=head_of(teacher), with_states=with_states)

    def encoding_of(self, number: int) -> int:
        """The encoding that a teacher reads."""
        return self.encodings[number] if self.encodings else 0


LABELS: Mapping[str, bool] = {"ce": False, "mse": False}
"""Directions of the terms that ``label_term`` names."""


def stored_name(number: int, kind: str) -> str:
    """The batch's column with stored outputs of teacher ``number``, of a kind such as ``logits``."""
    return f"teacher_{number}_{kind}"


def label_term(batch: Batch) -> str:
    """Name of the term of the true labels: ``ce`` for classes, ``mse`` for regression targets."""
    return "mse" if batch["labels"].is_floating_point() else "ce"


def check_weight(key: str, value: float) -> None:
    """Raise ValueError for a weight that is negative, not a number, or so great that no loss is left beside it."""
    if not 0 <= value < float("inf"):
        raise UserError(f"{key} is {value}; a weight must be a number that is not negative")
    if value > _MOST_WEIGHT:
        raise UserError(f"{key} is {value:g}; a weight is at most {_MOST_WEIGHT:g}")


def check_positive(key: str, value: float) -> None:
    """Raise ValueError for a rate that is not positive."""
    if not 0 < value < float("inf"):
        raise UserError(f"{key} is {value}; it must be positive and finite")


def check_pad_to(pad_to: int | None, *, compares_padding: bool, written: str) -> None:
    """Raise ValueError for a width of rows without places, or where no padding is compared, which is ``written``."""
    if pad_to is None:
        return
    if pad_to < 1:
        raise UserError(f"pad_to is {pad_to}; it must be at least 1")
    if not compares_padding:
        raise UserError(f"pad_to is {pad_to}, but no padding is compared; write {written}, or leave pad_to out")


def check_temperature(key: str, value: float) -> None:
    """Raise ValueError for a temperature that is not positive, or by which logits are no longer told apart."""
    check_positive(key, value)
    if not _TEMPERATURES[0] <= value <= _TEMPERATURES[1]:
        low, high = _TEMPERATURES
        raise UserError(f"{key} is {value:g}; a temperature is from {low:g} to {high:g}, published ones from 0.2 to 20")


def check_choice(key: str, value: Any, choices: Collection[Any]) -> None:
    """Raise ValueError for a value that is not among the choices."""
    if value not in choices:
        raise UserError(f"{key} is {value!r}; choices: {', '.join(map(str, choices))}")


def check_one_width(models: Iterable[Any]) -> None:
    """Raise ValueError for a configuration of a model whose last states are not as wide as its others."""
    for model in models:
        if family_of(model).last_width(model) != model.hidden_size:
            raise UserError(
                f"the last states of the {model.model_type} are {family_of(model).last_width(model)} wide, its others "
                f"{model.hidden_size}, so that states of its layers cannot be compared; choose another model or method"
            )


def check_interchange(proportion: float, max_tokens: int | None) -> None:
    """Raise ValueError for a fraction of positions, or a limit on them, that leaves none to interchange."""
    if not 0 < proportion <= 1:
        raise UserError(f"interchange_proportion is {proportion}; it must be in (0, 1]")
    if max_tokens is not None and max_tokens < 1:
        raise UserError(f"max_tokens is {max_tokens}; it must be at least 1, or null for no limit")
