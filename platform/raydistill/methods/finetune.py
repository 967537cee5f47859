"""Train a model on its task only, without a teacher, for instance to make one."""

from dataclasses import dataclass

from raydistill.batch import Batch
from raydistill.losses.chunked_head import vocabulary_losses
from raydistill.losses.classification import label_loss
from raydistill.methods._base import LABELS, VOCABULARY_TERMS, Distiller, Requirements, Term, Terms, label_term
from raydistill.models.predictions import at_labels, predict


@dataclass(frozen=True)
class Config:
    """The task loss has no options."""


class Method(Distiller[Config]):
    """Mean cross-entropy of the student with the task's labels, or mean squared error for regression.

    Its only term is ``mlm`` for a masked language model, ``clm`` for a causal one, ``ce`` for classes and ``mse`` for
    regression.

    >>> loss, terms = rd.Finetune().build(student)(batch)
    >>> sorted(terms)
    ['ce']
    """

    directions = {"mlm": False, "clm": False, **LABELS}

    @classmethod
    def requirements(cls, config: Config) -> Requirements:
        """No teacher, no partners."""
        return Requirements()

    def _term(self, batch: Batch) -> str:
        return VOCABULARY_TERMS.get(self.head) or label_term(batch)

    def terms(self, batch: Batch) -> dict[str, Term]:
        """A mean over labels."""
        return {self._term(batch): Term(batch["labels"].shape[0], 1.0)}

    def add_terms(self, terms: Terms, batch: Batch) -> None:
        """See the base class."""
        if self.head in VOCABULARY_TERMS:
            self._add_vocabulary_loss(terms, batch)
        else:
            logits = predict(self.student, batch, head=self.head).logits
            terms.add(self._term(batch), label_loss(logits, batch["labels"]))

    def _add_vocabulary_loss(self, terms: Terms, batch: Batch) -> None:
        name = self._term(batch)
        count = terms.denominators[name]
        loss, sums = vocabulary_losses(
            *at_labels(self.student, batch), weights={"ce": 1 / count}, labels=batch["labels"]
        )
        terms.add_loss(loss)
        terms.record(name, sums["ce"] / count)
