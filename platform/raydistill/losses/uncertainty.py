"""How certain a model is of its classes, and the distillation loss that weights rows by it; needs only torch.

Li et al. 2021, "Dynamic Knowledge Distillation for Pre-trained Language Models", EMNLP; code
lancopku/DynamicKD @ 261162d.
"""

import math

import torch
from torch import Tensor

from raydistill.losses.reduction import widen
from raydistill.losses.soft_targets import kl_divergence

_PLUG_IN_EPSILON = 1e-6


def normalized_entropy(logits: Tensor) -> Tensor:
    """Entropy of softmax(logits) divided by its largest value, log C.

    Shapes: (..., C) with C > 1; returns (...), in [0, 1], 1 where all classes are equally likely. Computed at
    temperature 1, with gradient. It has no unit. Raises ZeroDivisionError for a single class. Source: Li et al. 2021.

    >>> rd.losses.normalized_entropy(torch.zeros(1, 4, dtype=torch.float64))
    tensor([1.], dtype=torch.float64)
    """
    log_probabilities = torch.log_softmax(widen(logits), dim=-1)
    entropy = -(log_probabilities.exp() * log_probabilities).sum(dim=-1)
    return entropy / math.log(logits.shape[-1])


def confidence(logits: Tensor) -> Tensor:
    """Top-1 probability.

    Shapes: (..., C); returns (...), in [1 / C, 1]. A probability. Raises IndexError, torch's own, for a number without
    classes. Source: Li et al. 2021.

    >>> rd.losses.confidence(torch.zeros(1, 4))
    tensor([0.2500])
    """
    return torch.softmax(widen(logits), dim=-1).amax(dim=-1)


def margin(logits: Tensor) -> Tensor:
    """Top-1 minus top-2 probability.

    Shapes: (..., C) with C > 1; returns (...), in [0, 1]. A difference of probabilities. Raises RuntimeError, torch's
    own, for a single class. Source: Li et al. 2021.

    >>> rd.losses.margin(torch.zeros(1, 4))
    tensor([0.])
    """
    first, second = torch.softmax(widen(logits), dim=-1).topk(2, dim=-1).values.unbind(dim=-1)
    return first - second


def divergence_from_labels(logits: Tensor, soft_labels: Tensor) -> Tensor:
    """KL(soft labels || softmax(logits)) at temperature 1.

    Shapes: (..., C) each, the labels probabilities that may be 0; returns (...), in nats. Raises RuntimeError, torch's
    own, for shapes that do not fit. Source: Hinton et al. 2015, sec. 2.

    >>> rd.losses.divergence_from_labels(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])).exp()
    tensor([2.])
    """
    log_probabilities = torch.log_softmax(widen(logits), dim=-1)
    labels = soft_labels.to(log_probabilities.dtype)
    return (torch.xlogy(labels, labels) - labels * log_probabilities).sum(dim=-1)


def dynamic_kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) times temperature squared, each row weighted by the student's normalized entropy.

    Shapes: (B, C) each with C > 1; returns (), the sum over rows divided by B, in nats. Weights are computed at
    temperature 1 with 1e-6 added to each probability under the logarithm, and without gradient, as published. Raises
    ValueError for other shapes or a temperature that is not positive. Source: Li et al. 2021, ``dynamic_kd_loss`` of
    their code.

    >>> rd.losses.dynamic_kd_loss(torch.zeros(2, 3), torch.zeros(2, 3), temperature=2)
    tensor(0.)
    """
    if student_logits.dim() != 2 or student_logits.shape[-1] < 2:
        raise ValueError(
            f"student_logits have shape {tuple(student_logits.shape)}; it must be (rows, classes), two classes or more"
        )
    divergence = kl_divergence(student_logits, teacher_logits, temperature=temperature)
    with torch.no_grad():
        probabilities = torch.softmax(widen(student_logits), dim=-1)
        entropy = -(probabilities * (probabilities + _PLUG_IN_EPSILON).log()).sum(dim=-1)
        weights = entropy / math.log(student_logits.shape[-1])
    return (weights * divergence).mean()
