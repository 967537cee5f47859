"""Losses between hidden states of a student and a teacher, one value per row."""

from torch import Tensor
from torch.nn.functional import normalize

from raydistill.losses.reduction import widen

_EPSILON = 1e-12


def cosine_distance(student_states: Tensor, teacher_states: Tensor) -> Tensor:
    """One minus the cosine of two vectors, with 1e-12 added to each squared norm.

    Shapes: (..., width) each; returns (...), in [0, 2] up to rounding. Equals torch's CosineEmbeddingLoss with target
    +1 before its mean. Raises ValueError if the shapes differ. It has no unit. Source: Sanh et al. 2019, DistilBERT.

    >>> rd.losses.cosine_distance(torch.eye(2), torch.ones(2, 2).neg()) > 1
    tensor([True, True])
    """
    if student_states.shape != teacher_states.shape:
        raise ValueError(
            f"student_states have shape {tuple(student_states.shape)}, teacher_states {tuple(teacher_states.shape)}; "
            "the cosine needs equal widths"
        )
    student, teacher = widen(student_states), widen(teacher_states)
    product = (student * teacher).sum(dim=-1)
    squared_norms = (student.square().sum(dim=-1) + _EPSILON) * (teacher.square().sum(dim=-1) + _EPSILON)
    return 1 - product / squared_norms.sqrt()


def mean_squared_difference(first: Tensor, second: Tensor) -> Tensor:
    """Squared difference of two states, a mean over their width.

    Shapes: (..., width) each; returns (...). Raises ValueError if the shapes differ. In squared units of the states.
    Source: Romero et al. 2015, FitNets.

    >>> rd.losses.mean_squared_difference(torch.zeros(3, 8), torch.ones(3, 8))
    tensor([1., 1., 1.])
    """
    if first.shape != second.shape:
        raise ValueError(f"first has shape {tuple(first.shape)}, second {tuple(second.shape)}; both must be the same")
    return (widen(first) - widen(second)).square().mean(dim=-1)


def pkd_loss(student_states: Tensor, teacher_states: Tensor, *, normalized: bool) -> Tensor:
    """Mean squared difference of the hidden states of a row over layers and hidden size, as in patient KD.

    Shapes: (B, layers, hidden) each; returns (B,). With ``normalized`` each state is first divided by its norm, or by
    1e-12 where that is greater. Source: Sun et al. 2019, sec. 3.2. Raises ValueError if the shapes differ. In squared
    units of the states, with ``normalized`` without a unit.

    >>> rd.losses.pkd_loss(torch.zeros(2, 4, 8), torch.ones(2, 4, 8), normalized=False)
    tensor([1., 1.])
    """
    if student_states.shape != teacher_states.shape:
        raise ValueError(
            f"student_states have shape {tuple(student_states.shape)}, teacher_states {tuple(teacher_states.shape)}; "
            "both need equal layers and widths"
        )
    states = widen(student_states), widen(teacher_states)
    if normalized:
        states = normalize(states[0], dim=-1, eps=_EPSILON), normalize(states[1], dim=-1, eps=_EPSILON)
    return (states[0] - states[1]).square().flatten(1).mean(dim=1)
