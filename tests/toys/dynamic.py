"""The fixture of the published values of dynamic distillation, and methods whose models say given logits."""

import math
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raydistill.batch import Batch
from raydistill.layout import Layout
from raydistill.methods._base import stored_name
from raydistill.models.predictions import Prediction
from toys.classifiers import CLASSIFIERS, toy_labelled_batch


def g(shape: tuple[int, ...], a: float, b: float, scale: float) -> Tensor:
    """``scale * sin(a n² + b n + 0.1)`` of the row-major index n, float64."""
    n = torch.arange(math.prod(shape), dtype=torch.float64)
    return (scale * torch.sin(a * n**2 + b * n + 0.1)).view(shape)


STUDENT = g((5, 3), 0.37, 1.3, 2)
SMALL = g((5, 3), 0.21, 0.9, 3)
LARGE = g((5, 3), 0.13, 0.5, 3)
LABELS = torch.tensor([0, 2, 1, 1, 0])
UNCERTAINTY = [0.464276607022, 0.417882321223, 0.946859344503, 0.63743934463, 0.748726982021]
CROSS_ENTROPY = 1.5558549317785


def printed(value: float | list[float], digits: int) -> Any:
    """An expected value that was printed with so many digits after the point, compared to those, at most to 1e-9."""
    return pytest.approx(value, abs=max(0.5 * 10.0**-digits, 1e-9), rel=0)


def says(logits: Tensor, states: tuple[Tensor, ...] = ()) -> Prediction:
    """What a model says of rows without padding; states are (B, T, D)."""
    shape = states[0].shape[:2] if states else (logits.shape[0], 1)
    mask = torch.ones(shape, dtype=torch.bool)
    layout = Layout.of(mask, torch.arange(mask.numel()))
    packed = tuple(state.flatten(0, 1) for state in states)
    return Prediction(logits, packed, layout, torch.arange(shape[0]) * shape[1], packed[-1] if packed else None)


def fixture_batch(teachers: tuple[Tensor, ...] = (), rows: range = range(5)) -> Batch:
    """A batch with the fixture's labels and these stored teacher logits."""
    batch = toy_labelled_batch("classes", rows=rows)
    stored = {stored_name(number, "logits"): logits[list(rows)] for number, logits in enumerate(teachers)}
    return batch.with_columns(labels=LABELS[list(rows)], **stored)


def of_logits(
    module: ModuleType, batch: Batch, student_logits: Tensor = STUDENT, **options: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and terms of a method whose student says these logits."""
    method = module.Method(module.Config(**options), CLASSIFIERS["bert_classes"](1), [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "predict", lambda *_, **__: says(student_logits))
        found: tuple[Tensor, dict[str, Tensor]] = method(batch, method.denominators(batch))
    return found


def gradient_of_logits(module: ModuleType, batch: Batch, **options: Any) -> Tensor:
    """Gradient (B, C) of the loss by the fixture's student logits."""
    logits = STUDENT.clone().requires_grad_()
    loss, _ = of_logits(module, batch, logits, **options)
    return torch.autograd.grad(loss, logits)[0]


def count_rows(teacher: nn.Module) -> list[int]:
    """A list that gets the number of rows of each forward of a BERT classifier."""
    seen: list[int] = []
    teacher.classifier.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[0]))
    return seen
