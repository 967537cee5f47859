"""The fixture of the published values of knowledge integration, and rows without labels."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raydistill.batch import Batch, collate
from raydistill.methods import _integration
from raydistill.methods._base import stored_name
from raydistill.testing.contract import unlabelled as unlabelled
from toys.classifiers import toy_classifier
from toys.dynamic import g, says
from toys.models import toy_bert

UNION = ("a", "b", "c", "d", "e")
PARTS = (("a", "b"), ("c", "d", "e"))
STUDENT = g((4, 5), 0.37, 1.3, 2)
TEACHERS = (g((4, 2), 0.21, 0.9, 3), g((4, 3), 0.13, 0.5, 3))
VKD = 1.07209537354896
"""The loss of ``vkd`` at temperature 1, which is a term of ``dfa`` and ``cfl`` too."""


def student_of(labels: Sequence[str] = UNION, num_layers: int = 1, **options: Any) -> nn.Module:
    """A BERT classifier of these classes."""
    return toy_classifier(toy_bert, num_layers, labels=labels, **options)


def fixture_batch(teachers: Sequence[Tensor] = TEACHERS, rows: Sequence[int] = range(4)) -> Batch:
    """Unlabelled rows of three tokens with these stored teacher logits."""
    batch = collate([np.full(3, 5) for _ in rows], list(rows), pad_id=0)
    return batch.with_columns(
        **{stored_name(number, "logits"): logits[list(rows)] for number, logits in enumerate(teachers)}
    )


def of_logits(
    module: ModuleType,
    teachers: Sequence[Tensor] = TEACHERS,
    *,
    labels: Sequence[Sequence[str]] = PARTS,
    union: Sequence[str] = UNION,
    rows: Sequence[int] = range(4),
    **options: Any,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and terms of a method whose student says the fixture's logits, and whose teachers' logits are stored.

    With a smaller ``union`` the student has the first of the fixture's outputs alone.
    """
    method = module.Method(module.Config(**options), student_of(union), teacher_labels=labels)
    batch = fixture_batch(teachers, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "predict", lambda *_, **__: says(STUDENT[list(rows), : len(union)]))
        found: tuple[Tensor, dict[str, Tensor]] = method(batch, method.denominators(batch))
    return found


def divergence(target: Tensor, logits: Tensor) -> Tensor:
    """KL of each row's target probabilities from softmax(logits), by torch."""
    log_probabilities = torch.log_softmax(logits, dim=-1)
    return nn.functional.kl_div(log_probabilities, target, reduction="none").sum(-1)


STUDENT_STATES = tuple(g((4, 3, 8), 0.11 + 0.01 * i, 0.3, 1) for i in range(3))
TEACHER_STATES = tuple(tuple(g((4, 3, 8), a + 0.01 * i, b, 1) for i in range(3)) for a, b in ((0.23, 0.6), (0.05, 0.8)))


def of_states(module: ModuleType, **options: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and terms of a method whose models say the fixture's logits and states, with the fixture's adapters."""
    student = student_of(num_layers=2, hidden_size=8)
    teachers = [student_of(part, num_layers=2, hidden_size=8) for part in PARTS]
    method = module.Method(module.Config(**options), student, teachers)
    with torch.no_grad():
        for number, (_, parameter) in enumerate(sorted(method.adapters.named_parameters())):
            parameter.copy_(g(tuple(parameter.shape), 0.29 + 0.001 * number, 0.4, 0.3))
    batch = fixture_batch(())
    said = [says(logits, states) for logits, states in zip(TEACHERS, TEACHER_STATES, strict=True)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_integration, "predict", lambda *_, **__: says(STUDENT, STUDENT_STATES))
        patch.setattr(module.Method, "run_teacher", lambda *_, number, **__: said[number])
        found: tuple[Tensor, dict[str, Tensor]] = method(batch, method.denominators(batch))
    return found


def hidden_states_of(model: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
    """States (B, T, D) of transformers' own forward, those of padding too."""
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"].long()}
    found: Any = model(**inputs, output_hidden_states=True)
    return tuple(found.hidden_states)
