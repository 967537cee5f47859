"""Losses between two vocabulary or class distributions, one value per row."""

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import log_softmax

from raydistill.losses.divergences import Divergence
from raydistill.losses.reduction import widen


def _check_shapes(student_logits: Tensor, teacher_logits: Tensor) -> None:
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student_logits have shape {tuple(student_logits.shape)}, teacher_logits {tuple(teacher_logits.shape)}; "
            "both must have the same rows and classes"
        )


def _check_temperature(temperature: float) -> None:
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; it must be positive")


def kl_divergence(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """KL(teacher || student) of tempered distributions, times temperature squared.

    Shapes: (..., classes) each; returns (...), in nats. Source: Hinton et al. 2015, sec. 2.
    Raises ValueError if the shapes differ or temperature <= 0.

    >>> rd.losses.kl_divergence(torch.zeros(5, 3), torch.ones(5, 3), temperature=4).mean()
    tensor(0.)
    """
    _check_shapes(student_logits, teacher_logits)
    _check_temperature(temperature)
    student = log_softmax(widen(student_logits) / temperature, dim=-1)
    teacher = log_softmax(widen(teacher_logits) / temperature, dim=-1)
    return temperature**2 * (teacher.exp() * (teacher - student)).sum(dim=-1)


def soft_cross_entropy(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """Cross-entropy of the student under the teacher's tempered distribution, times temperature squared.

    It is ``kl_divergence`` plus the teacher's entropy times temperature squared: the student's gradient is the same,
    the teacher's is not. Shapes: (..., classes) each; returns (...), in nats. Raises ValueError if the shapes differ
    or temperature <= 0. Source: code GeneZC/StarK @ ac1e8d1.

    >>> rd.losses.soft_cross_entropy(torch.zeros(1, 2), torch.zeros(1, 2), temperature=1).exp()
    tensor([2.])
    """
    _check_shapes(student_logits, teacher_logits)
    _check_temperature(temperature)
    student = log_softmax(widen(student_logits) / temperature, dim=-1)
    teacher = log_softmax(widen(teacher_logits) / temperature, dim=-1)
    return -(temperature**2) * (teacher.exp() * student).sum(dim=-1)


def squared_error(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Sum over classes of the squared difference of raw logits.

    Shapes: (..., classes) each; returns (...). Raises ValueError if the shapes differ. The unit is that of logits,
    squared. Source: Ba and Caruana 2014.

    >>> rd.losses.squared_error(torch.zeros(1, 2), torch.tensor([[1.0, 2.0]]))
    tensor([5.])
    """
    _check_shapes(student_logits, teacher_logits)
    return (widen(student_logits) - widen(teacher_logits)).square().sum(dim=-1)


def tempered_divergence(
    student_logits: Tensor, teacher_logits: Tensor, *, divergence: Divergence, temperature: float
) -> Tensor:
    """Any divergence of tempered distributions, times temperature squared.

    Shapes: (..., classes) each; returns (...), in nats. Raises ValueError if the shapes differ or temperature <= 0.
    Source: the papers that ``divergence_of`` names.

    >>> jsd = rd.losses.divergence_of("jsd", beta=0.5)
    >>> rd.losses.tempered_divergence(torch.zeros(3), torch.zeros(3), divergence=jsd, temperature=2)
    tensor(0.)
    """
    _check_shapes(student_logits, teacher_logits)
    _check_temperature(temperature)
    log_q = log_softmax(widen(student_logits) / temperature, dim=-1)
    log_p = log_softmax(widen(teacher_logits) / temperature, dim=-1)
    return temperature**2 * divergence(log_q, log_p)[0]


def soft_label_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float,
    mean_over_classes: bool,
    compare: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """``kl_divergence`` of classes, or ``squared_error`` of a single output, a regression.

    Shapes: (N, C) each; returns (N,). ``compare`` takes the place of ``kl_divergence``. With ``mean_over_classes`` the
    divergence is divided by C. Raises ValueError if the shapes differ or temperature <= 0. In nats, of a regression in
    squared units of the score. Source: Hinton et al. 2015, as with patient KD.

    >>> rd.losses.soft_label_loss(torch.zeros(2, 1), torch.ones(2, 1), temperature=2, mean_over_classes=False)
    tensor([1., 1.])
    """
    if student_logits.shape[-1] == 1:
        return squared_error(student_logits, teacher_logits)
    if compare is None:
        divergence = kl_divergence(student_logits, teacher_logits, temperature=temperature)
    else:
        divergence = compare(student_logits, teacher_logits)
    return divergence / student_logits.shape[-1] if mean_over_classes else divergence
