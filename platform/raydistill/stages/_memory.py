"""What a worker holds of a student: weights, gradients and moments, and with checkpointing the inputs of its blocks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from raydistill.config.sections import ScalingConfig, TeacherConfig
from raydistill.models import checks, layer_plan, lora, quantization
from raydistill.models.blocks import family_of
from raydistill.user_error import UserError

if TYPE_CHECKING:
    from raydistill.stages.train import Config

_STUDENT_BYTES = 4
"""Of a weight, a gradient and each moment: what is trained in half precision has a copy in full."""
_GIB = 2**30


def student_bytes(config: "Config", student: Any, num_workers: int, *, value_bytes: int) -> float:
    """Bytes of weights, gradients and two moments of a worker, given the student's configuration.

    ``value_bytes``: of a weight that is only read.
    """
    size = checks.num_parameters(student, head=config.task.head)
    trained = num_trained(config, student)
    frozen = 0 if trained is None else size
    size = size if trained is None else trained
    stage = config.training.zero_stage
    weight = 1 / num_workers if stage == 3 else 1.0
    gradient = 1 / num_workers if stage >= 2 else 1.0
    moments = 2 / num_workers if stage >= 1 else 2.0
    # What is frozen has no copy in full.
    return size * _STUDENT_BYTES * (weight + gradient + moments) + frozen * value_bytes * weight


def teacher_bytes(reference: TeacherConfig, teacher: Any, *, head: str, value_bytes: int) -> float:
    """Bytes of a teacher's weights, given its configuration."""
    if reference.quantization is None:
        return float(checks.num_parameters(teacher, head=head) * value_bytes)
    model = checks.without_values(teacher, head=head)
    of_bytes = quantization.num_quantized(model)
    return float(of_bytes + (sum(p.numel() for p in model.parameters()) - of_bytes) * value_bytes)


def check_quantization(config: "Config", scaling: ScalingConfig, teachers: Sequence[Any], *, is_live: bool) -> None:
    """Raise UserError for a teacher in 8 bits that cannot run so, given the teachers' configurations."""
    for number, (reference, teacher) in enumerate(zip(config.teachers, teachers, strict=True)):
        if reference.quantization is None:
            continue
        key = f"teachers.{number}"
        quantization.check(f"{key}.quantization", teacher, use_gpu=scaling.use_gpu)
        if reference.placement not in ("auto", "replicate"):
            raise UserError(
                f"{key}.placement is {reference.placement!r}, but {key}.quantization is 'int8', and such a teacher is "
                "replicated; leave one of them out"
            )
        if not is_live:
            raise UserError(
                f"{key}.quantization is 'int8', but the outputs of teachers are stored; write teacher_outputs: live, "
                "or leave it out"
            )


def num_trained(config: "Config", student: Any) -> int | None:
    """Parameters of the student's adapters and of what is trained beside them; None where all weights are trained.

    Raises UserError for adapters that the student cannot have.
    """
    options = config.student.lora
    if options is None:
        return None
    lora.check_library()
    model = checks.without_values(student, head=config.task.head)
    lora.check_modules(model, options, is_merged=options.save == "merged")
    return lora.num_trained(model, options)


def check_checkpointing(config: "Config", student: Any) -> None:
    """Raise UserError for a student whose blocks nobody finds, so that none could keep its input alone."""
    if config.training.gradient_checkpointing and "all_states" not in family_of(student, config.task.head).has(student):
        raise UserError(
            f"training.gradient_checkpointing is true, but no list of blocks is known of a {student.model_type}; "
            "set it to false"
        )


def checkpointing_lines(config: "Config", student: Any, *, row_tokens: int, value_bytes: int) -> list[str]:
    """What a preflight tells of gradient checkpointing, given the most tokens of a row and the bytes of a value."""
    if not config.training.gradient_checkpointing:
        return []
    blocks, rows = layer_plan.num_steps(student), config.training.micro_batch_size
    inputs = blocks * rows * row_tokens * student.hidden_size * value_bytes / _GIB
    return [
        f"gradient_checkpointing: the student's {blocks} blocks keep their inputs alone, at most {inputs:.2f} GiB for "
        f"a pass over {rows} rows of {row_tokens} tokens, and what one block computes"
    ]
