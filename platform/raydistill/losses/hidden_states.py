"""Losses between hidden states of a student and a teacher, one value a row."""

from torch import Tensor

from raydistill.losses.reduction import widen

_EPSILON = 1e-12


def cosine_distance(student_states: Tensor, teacher_states: Tensor) -> Tensor:
    """One minus the cosine of two vectors, with 1e-12 added to each squared norm.

    Shapes: (..., width) each; returns (...), in [0, 2] up to rounding. Equals torch's CosineEmbeddingLoss with
    target +1 before its mean. Raises ValueError if the shapes differ.
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
