"""Knowledge distillation: the teacher's soft labels beside the true labels, of classifiers and of language models.

Hinton et al. 2015, sec. 2. Other divergences: see ``losses.divergences``.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from raydistill.batch import Batch
from raydistill.losses.classification import label_loss
from raydistill.losses.divergences import NAMES, Divergence
from raydistill.losses.soft_targets import soft_label_loss, squared_error, tempered_divergence
from raydistill.methods._base import (
    CLASSIFYING,
    LABELS,
    VOCABULARY_TERMS,
    Distiller,
    Execution,
    Requirements,
    Term,
    Terms,
    check_choice,
    check_temperature,
    label_term,
)
from raydistill.methods._teacher_rows import with_teacher_rows
from raydistill.methods._vocabulary_kd import (
    add_vocabulary_terms,
    check_teachers,
    check_top_k,
    is_stored,
    measure_of,
    vocabulary_terms,
)
from raydistill.models.predictions import predict
from raydistill.user_error import UserError

_POSITIONS = {
    "all": (*CLASSIFYING, *VOCABULARY_TERMS),
    "masked": ("masked_lm",),
    "completion": ("causal_lm",),
}
"""Heads that each value of ``positions`` suits."""


@dataclass(frozen=True)
class SoftLabels:
    """Weights and temperature."""

    alpha: float = 0.5
    """The fraction of the loss that the soft labels have. The true labels have the rest."""
    temperature: float = 2.0
    """Logits are divided by it before the softmax."""
    reduction: str = "batchmean"
    """``batchmean`` sums the divergence over the classes. ``mean`` also divides it by their number, as earlier code
    did."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise UserError(f"alpha is {self.alpha}; it must be between 0 and 1")
        check_temperature("temperature", self.temperature)
        check_choice("reduction", self.reduction, ("batchmean", "mean"))


@dataclass(frozen=True)
class Config(SoftLabels):
    """How student and teacher are compared, and where."""

    divergence: str = "forward_kl"
    """How the two distributions are compared: ``forward_kl``, ``reverse_kl``, ``jsd``, ``skew_kl``, ``skew_reverse_kl``
    or ``tvd``, each times the temperature squared; or ``mse``, the squared error of the logits."""
    beta: float = 0.5
    """For ``jsd``: the teacher's share of the mixture. 0 is the forward and 1 the reverse KL divergence."""
    skew: float = 0.1
    """For ``skew_kl``: the teacher's share of the second distribution. For ``skew_reverse_kl``: the student's."""
    positions: str = "all"
    """Where a language model is compared with its teacher: at ``all`` tokens, at the tokens that are ``masked``, or at
    those that a decoder predicts (``completion``). Classifiers have no such choice."""
    teacher_weights: tuple[float, ...] = ()
    """For a language model with several teachers: the weight of each teacher's distribution, at the temperature, in the
    mean that the student is compared with. The weights are divided by their sum. Empty for a single teacher."""
    teacher_of: dict[str, int] = field(default_factory=dict)
    """For a language model whose corpora have teachers of their own: the number of the teacher, by the corpus's
    name."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("divergence", self.divergence, (*NAMES, "mse"))
        check_choice("positions", self.positions, tuple(_POSITIONS))
        if self.divergence != "mse":
            measure_of(self.divergence, beta=self.beta, skew=self.skew)
        check_teachers(self)

    @property
    def num_teachers(self) -> int:
        """How many there are; none is read where their weight is 0."""
        several = len(self.teacher_weights) or max(self.teacher_of.values(), default=0) + 1
        return several if self.alpha > 0 else 0

    @property
    def measure(self) -> Divergence | None:
        """The divergence; None for the forward KL divergence, which has code of its own, and for squared errors."""
        return None if self.divergence == "mse" else measure_of(self.divergence, beta=self.beta, skew=self.skew)

    @property
    def compare(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        """The loss (N,) of rows of classes, given both models' logits (N, C); None for the forward KL divergence."""
        if self.divergence == "mse":
            return squared_error
        return self.measure and partial(tempered_divergence, divergence=self.measure, temperature=self.temperature)


class Method(Distiller[Config]):
    """``alpha * kd + (1 - alpha) * ce``; for regression ``mse`` replaces ``ce``, and ``kd`` is a squared error.

    Of language models ``mlm`` or ``clm`` replaces ``ce``.

    >>> loss, terms = rd.KD(alpha=0.5, temperature=2).build(student, [teacher])(batch)
    >>> sorted(terms)
    ['ce', 'kd']
    """

    vanishes_for_identical_models = ("kd",)
    directions = {"mlm": False, "clm": False, **LABELS, "kd": False}

    @classmethod
    def requirements(cls, config: Config) -> Requirements:
        """One teacher, unless its weight is 0; its logits may be stored, and its tokenizer may differ for sequences.

        Language models have several where ``teacher_weights`` or ``teacher_of`` says so.

        Answers have as many classes as the micro-batch has positions, so a mean over classes would depend on it. The
        teacher of a language model has its vocabulary, and its likeliest ids may be stored.
        """
        heads = CLASSIFYING[:2] if config.reduction == "mean" else _POSITIONS[config.positions]
        if config.teacher_weights or config.teacher_of:
            heads = tuple(head for head in heads if head in VOCABULARY_TERMS)
        return Requirements(
            min_teachers=config.num_teachers,
            max_teachers=config.num_teachers,
            heads=heads,
            teacher_of=config.teacher_of if config.alpha > 0 else {},
            stored=("logits",),
            stored_of_vocabulary=("top_k",),
            labels=config.alpha < 1,
            execution=Execution(sequential_teachers=True, cross_tokenizer=True),
        )

    @classmethod
    def check_top_k(cls, config: Config, *, positions: str, temperature: float) -> None:
        """See the base class."""
        check_top_k(config, positions, temperature)

    @classmethod
    def prepare_batch(cls, config: Config, batch: Batch) -> Batch:
        """See the base class; rows are told apart by their teachers where these run."""
        if not config.teacher_of or config.alpha == 0 or is_stored(batch):
            return batch
        return with_teacher_rows(
            batch, config.num_teachers, at_all=config.positions == "all", labelled=config.alpha < 1
        )

    def terms(self, batch: Batch) -> dict[str, Term]:
        """Means over labels; ``kd`` of a language model is one over the compared tokens."""
        if self.head in VOCABULARY_TERMS:
            return vocabulary_terms(self.config, batch, self.head)
        return soft_label_terms(self.config, batch)

    def add_terms(self, terms: Terms, batch: Batch) -> None:
        """See the base class."""
        if self.head in VOCABULARY_TERMS:
            add_vocabulary_terms(self, terms, batch)
            return
        logits = predict(self.student, batch, head=self.head).logits
        teacher_logits = self.teacher_logits(batch) if self.config.alpha > 0 else None
        add_soft_labels(terms, self.config, batch, logits, teacher_logits, compare=self.config.compare)


def soft_label_terms(config: SoftLabels, batch: Batch) -> dict[str, Term]:
    """The terms of the true and of the soft labels as far as they have a weight, means over labels.

    They are means over rows where there are no labels.
    """
    labels = batch.get("labels")
    count = batch.num_rows if labels is None else labels.shape[0]
    found = {label_term(batch): Term(count, 1 - config.alpha)} if config.alpha < 1 else {}
    return {**found, "kd": Term(count, config.alpha)} if config.alpha > 0 else found


def add_soft_labels(
    terms: Terms,
    config: SoftLabels,
    batch: Batch,
    logits: Tensor,
    teacher_logits: Tensor | None,
    *,
    compare: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> None:
    """Add the terms of ``soft_label_terms``, given logits (N, C); the teacher's are needed where alpha is positive.

    ``compare`` takes the place of the forward KL divergence of classes.
    """
    if config.alpha < 1:
        terms.add(label_term(batch), label_loss(logits, batch["labels"]))
    if config.alpha > 0:
        assert teacher_logits is not None
        rows = soft_label_loss(
            logits,
            teacher_logits,
            temperature=config.temperature,
            mean_over_classes=config.reduction == "mean",
            compare=compare,
        )
        terms.add("kd", rows)
