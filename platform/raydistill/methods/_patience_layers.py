"""Which layers of a student and a teacher patient distillation compares, as published.

Layers are numbered from 0 by their output: layer i is the output of block i. The tables depend on the depths alone;
Pea-KD's code reads them on GPUs only.
"""

from collections.abc import Sequence

Layers = tuple[int, ...]

_FIRST_11 = tuple(range(11))

TABLES: dict[str, dict[tuple[int, int], tuple[Layers, Layers]]] = {
    # Pea-KD: a student's depth is that with its plan, so 6 is a plain student of 6 blocks or SPS of 3, 9 is SPS of 6,
    # 12 is the stochastic plan of 6.
    "pea_kd": {
        (2, 12): ((0,), (5,)),
        (3, 12): ((0, 1), (3, 7)),
        (4, 12): ((0, 1, 2), (2, 5, 8)),
        (6, 12): ((0, 1, 2, 3, 4), (1, 3, 5, 7, 9)),
        (9, 12): ((2, 5), (3, 7)),
        (12, 12): (_FIRST_11, _FIRST_11),
    },
    # Patient KD. Of teachers with 24 layers its code stores five and numbers those; here are the layers themselves.
    "pkd": {
        (6, 12): ((0, 1, 2, 3, 4), (1, 3, 5, 7, 9)),
        (3, 12): ((0, 1), (9, 10)),
        (6, 24): ((0, 1, 2, 3, 4), (3, 7, 11, 15, 19)),
        (3, 24): ((0, 1), (7, 15)),
    },
}
"""Student and teacher layers by table and by the depths of student and teacher."""


def published_layers(table: str, student_depth: int, teacher_depth: int | None) -> tuple[Layers, Layers]:
    """The compared layers of student and teacher; without a depth of the teacher the teacher's are of any teacher.

    Raises ValueError naming the depths that the table has.
    """
    entries = TABLES[table]
    for (student, teacher), layers in entries.items():
        if student == student_depth and teacher_depth in (None, teacher):
            return layers
    known = ", ".join(f"{student} of {teacher}" for student, teacher in entries)
    hint = "; a student of one layer has none to compare, use method kd" if student_depth == 1 else ""
    raise ValueError(
        f"method.table is {table!r}, which has no layers for {student_depth} of a student and {teacher_depth} of a "
        f"teacher, only {known}; give method.student_layers and method.teacher_layers{hint}"
    )


def check_lists(student_layers: Sequence[int], teacher_layers: Sequence[int]) -> None:
    """Raise ValueError for lists that do not pair layers."""
    if len(student_layers) != len(teacher_layers):
        raise ValueError(
            f"student_layers has {len(student_layers)} layers, teacher_layers {len(teacher_layers)}; give equally many"
        )
    if not student_layers:
        raise ValueError("student_layers is empty; name at least one layer, or leave both lists for the table")
    for key, layers in (("student_layers", student_layers), ("teacher_layers", teacher_layers)):
        if min(layers) < 0:
            raise ValueError(f"{key} has {min(layers)}; layers are numbered from 0")


def check_depth(key: str, layers: Sequence[int], depth: int) -> None:
    """Raise ValueError for a layer that a model of ``depth`` layers lacks."""
    if max(layers) >= depth:
        raise ValueError(f"method.{key} has {max(layers)}; the model has layers 0 to {depth - 1}")
