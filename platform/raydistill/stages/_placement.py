"""Where a training's teachers lie, from the models' configurations and what a worker has."""

from collections.abc import Sequence
from typing import Any

import torch

from raydistill import cluster
from raydistill.config.sections import ScalingConfig
from raydistill.models import checks
from raydistill.stages import _choice
from raydistill.training.deepspeed_config import Precision, resolve_precision
from raydistill.training.placement import SEQUENTIAL, Demand, Options, Plan, held, place

_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
_STUDENT_BYTES = 4
"""Of a weight, a gradient and each moment: what is trained in half precision has a copy in full."""
_GIB = 2**30
_SHARE = 0.7
"""Of a machine's memory that weights, gradients and moments may take; the rest is for activations and data."""


def precision_of(asked: str, scaling: ScalingConfig) -> Precision:
    """What models of a training compute in, as far as it is known where no worker runs."""
    if asked == "auto" and scaling.use_gpu and not torch.cuda.is_available():
        # The GPUs are on other machines of the cluster, and those that trainings run on today have it.
        return "bf16"
    return resolve_precision(asked, use_gpu=scaling.use_gpu)


def _student_bytes(config: Any, student: Any, num_workers: int) -> float:
    """What a worker holds of the student, given its configuration: weights, gradients and two moments."""
    size = checks.num_parameters(student, head=config.task.head)
    stage = config.training.zero_stage
    weight = 1 / num_workers if stage == 3 else 1.0
    gradient = 1 / num_workers if stage >= 2 else 1.0
    moments = 2 / num_workers if stage >= 1 else 2.0
    return size * _STUDENT_BYTES * (weight + gradient + moments)


def demand_of(config: Any, scaling: ScalingConfig, models: Sequence[Any]) -> Demand:
    """What the models of a training take, given their configurations, student first."""
    student, *teachers = models
    head, size = config.task.head, _BYTES[precision_of(config.training.precision, scaling)]
    return Demand(
        # Of workers that share weights the fewest hold the most.
        _student_bytes(config, student, scaling.fewest_workers),
        tuple(float(checks.num_parameters(teacher, head=head) * size) for teacher in teachers),
    )


def decided(
    config: Any, scaling: ScalingConfig, models: Sequence[Any], choice: _choice.Choice
) -> tuple[_choice.Choice, Plan | None]:
    """Whether teachers run after all, and where they lie; no plan where none runs beside the student.

    ``models`` are the configurations, student first, ``choice`` is what sizes of data say. Raises ValueError, of one
    line, for a placement that the method cannot have, and for what is too large for ``scaling.memory_per_worker``.
    """
    teachers = models[1:]
    if choice.is_stored or not teachers or not config.method.distils:
        return choice, None
    plan = place(demand_of(config, scaling, models), _options(config, scaling, num_teachers=len(teachers)))
    return (_choice.Choice(_choice.STORED, plan.why, _choice.LIVE), None) if plan.is_captured else (choice, plan)


def _options(config: Any, scaling: ScalingConfig, *, num_teachers: int) -> Options:
    method = config.method
    in_turn = method.requirements.one_at_a_time
    for number, reference in enumerate(config.teachers):
        if reference.placement == SEQUENTIAL and not in_turn:
            raise ValueError(
                f"teachers.{number}.placement is 'sequential', but method {method.name} has to have its teachers at "
                "hand; write replicate or zero3"
            )
    limit = cluster.memory_per_worker(scaling)
    return Options(
        asked=tuple(reference.placement for reference in config.teachers),
        num_workers=scaling.fewest_workers,
        limit=scaling.memory_per_worker * _GIB if scaling.memory_per_worker else limit and limit * _SHARE,
        is_strict=scaling.memory_per_worker is not None,
        one_at_a_time=in_turn and num_teachers > 1,
        can_capture=_choice.may_capture(config),
    )


def held_by(config: Any, scaling: ScalingConfig, models: Sequence[Any], plan: Plan | None) -> float:
    """Bytes that a worker holds of student and teachers, given their configurations, student first."""
    demand = demand_of(config, scaling, models)
    if plan is None:
        return demand.student
    return held(demand, plan.placements, num_workers=scaling.fewest_workers)
