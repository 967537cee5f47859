"""Where a training has its teachers' outputs from, and where the teachers lie that run beside the student.

Outputs are of a capture that is named, of one of its own, or of teachers that run.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from raydistill import cluster
from raydistill.config.matrix import axes
from raydistill.config.sections import ScalingConfig
from raydistill.config.training import TrainingConfig
from raydistill.methods import muki
from raydistill.methods._base import VOCABULARY_TERMS
from raydistill.methods.muki import DROPOUT_SCORES
from raydistill.stages._memory import student_bytes, teacher_bytes
from raydistill.training.deepspeed_config import Precision, resolve_precision
from raydistill.training.placement import CAPTURED, SEQUENTIAL, Demand, Options, TeacherPlacement, held, place
from raydistill.user_error import UserError

if TYPE_CHECKING:
    from raydistill.stages.train import Config

AUTO = "auto"
"""Value of ``teacher_outputs`` under which a training chooses one of the other two."""
LIVE = "live"
"""Value under which teachers run while the student learns."""
STORED = "stored"
"""Value under which a training stores itself what it reads, unless that is there."""
KEYWORDS = (AUTO, LIVE, STORED)
"""Values that name no capture."""
HEAD = "sequence_classification"
"""Head of the teachers that a training can capture by itself."""
KINDS = ("logits", "cls_states", DROPOUT_SCORES)
"""What it captures of them; how scores of passes with dropout are made is the method's to say."""
_OTHER_OUTPUTS = ("corpus", "task", "teachers", "teacher_outputs")
"""Keys of a stage on which, or on a part of which, it depends what is read of which teacher on which rows."""
VALUE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Of a weight or a state in each precision."""
_GIB = 2**30
_SHARE = 0.7
"""Of a machine's memory that weights, gradients and moments may take; the rest is for activations and data."""


@dataclass(frozen=True)
class Rows:
    """Sizes of what a training reads, each None while it is not known."""

    epoch: int | None
    """Rows of an epoch, weights and ``few_shot`` counted."""
    corpus: int | None
    """Rows to train on that a capture runs teachers over: each of each corpus once."""


@dataclass(frozen=True)
class Choice:
    """What was chosen and why."""

    source: str
    """``live``, ``stored``, or the name of the capture."""
    why: str = ""
    """Nothing where the user chose it, or no teacher is read."""
    instead: str = ""
    """What the user may write to have the other, where that can be."""

    @property
    def is_stored(self) -> bool:
        """Whether no teacher runs while the student learns."""
        return self.source != LIVE

    @property
    def is_own(self) -> bool:
        """Whether the training captures what it reads, unless that is there."""
        return self.source == STORED

    @property
    def lines(self) -> list[str]:
        """What a preflight says of it."""
        overriding = f"; teacher_outputs: {self.instead} overrides it" if self.instead else ""
        return [f"teacher outputs: {self.source}, because {self.why}{overriding}"] if self.why else []


def kinds_of(config: "Config") -> tuple[str, ...]:
    """Kinds of stored outputs that method and task of a training read."""
    return tuple(dict.fromkeys([*kinds_of_method(config), *config.task.task.NEEDS_STORED]))


def kinds_of_method(config: "Config") -> tuple[str, ...]:
    """Kinds of stored outputs that a training's method reads; none where teachers must run, or are not read."""
    if not config.method.distils:
        return ()
    needs = config.method.requirements
    return needs.stored_of_vocabulary if config.task.head in VOCABULARY_TERMS else needs.stored


def choose(config: "Config", rows: Rows) -> Choice:
    """What the key ``teacher_outputs`` of a training leads to; ``rows`` decide where nothing else does.

    Raises ValueError, with one line, for a value that the method or the task cannot have.
    """
    asked, needed = config.teacher_outputs, config.task.task.NEEDS_STORED
    if needed and asked in KEYWORDS:
        raise UserError(
            f"teacher_outputs is {asked!r}, but task {config.task.name} reads stored {', '.join(needed)}; "
            "name a capture stage"
        )
    captured = [number for number, teacher in enumerate(config.teachers) if teacher.placement == CAPTURED]
    where = f"teachers.{captured[0]}.placement is 'captured'" if captured else ""
    if asked == LIVE and captured:
        raise UserError(f"{where}, but teacher_outputs is 'live'; leave one of them out")
    if asked == LIVE or asked not in KEYWORDS:
        return Choice(asked)
    obstacle = _obstacle(config)
    if asked == STORED or captured:
        if obstacle is not None:
            raise UserError(f"{where or 'teacher_outputs is ' + repr(asked)}, but {obstacle[0]}; {obstacle[1]}")
        return Choice(STORED, where)
    if not kinds_of(config) and not config.method.distils:
        return Choice(LIVE)
    return Choice(LIVE, obstacle[0]) if obstacle is not None else _cheaper(config, rows)


def may_capture(config: "Config") -> bool:
    """Whether a training whose teachers run may capture what they say instead."""
    return bool(config.teacher_outputs == AUTO and _obstacle(config) is None)


def _obstacle(config: "Config") -> tuple[str, str] | None:
    """Why a training cannot capture what it reads, and what to do instead; None where it can."""
    method, task = config.method, config.task
    live = "write teacher_outputs: live"
    if not method.distils:
        return f"neither method {method.name} nor task {task.name} reads teachers", "leave it out"
    kinds = kinds_of(config)
    if not kinds:
        return f"method {method.name} has to run its teachers", live
    if task.head in VOCABULARY_TERMS:
        some = f"of what teachers of task {task.name} say only the likeliest ids can be stored"
        return some, "name a capture stage that stores top_k"
    if task.head != HEAD:
        return f"outputs of task {task.name}, which needs a {task.head} head, are not stored", live
    beyond = [kind for kind in kinds if kind not in KINDS]
    if beyond or (DROPOUT_SCORES in kinds and not isinstance(method.config, muki.Config)):
        what = beyond[0] if beyond else DROPOUT_SCORES
        return f"method {method.name} reads {what}, which need options", "name a capture stage that stores them"
    for number, teacher in enumerate(config.teachers):
        if teacher.head == "new":
            return f"teachers.{number}.head is 'new', whose weights are not trained", "train it first"
        if teacher.placement not in (AUTO, CAPTURED):
            return f"teachers.{number}.placement is {teacher.placement!r}", "leave placement out"
    return None


def _cheaper(config: "Config", rows: Rows) -> Choice:
    """Stored, unless a training ends before it has read as many rows as a capture would run its teachers over."""
    alike = _runs_alike(config)
    runs = "this training reads" if alike == 1 else f"{alike} runs of this training read"
    read = None if rows.epoch is None else alike * _rows_read(config.training, rows.epoch)
    if read is None or rows.corpus is None:
        return Choice(STORED, _why_unknown(config, alike, runs), LIVE)
    if read < rows.corpus:
        return Choice(LIVE, f"{runs} {read:,} rows, fewer than the {rows.corpus:,} that would be stored", STORED)
    return Choice(STORED, f"{runs} {read:,} rows and the teachers then see each of {rows.corpus:,} once", LIVE)


def _why_unknown(config: "Config", alike: int, runs: str) -> str:
    training = config.training
    steps = min(training.max_steps or math.inf, training.stop_after_steps or math.inf)
    if steps == math.inf:
        epochs = alike * min(training.num_epochs, training.stop_after_epochs or training.num_epochs)
        fewer = any(reference.few_shot or reference.weight < 1 for reference in config.corpus)
        return f"{runs} {epochs} epochs" + (", unless few_shot or weight leave fewer rows" if fewer else "")
    return f"{runs} {alike * int(steps) * training.batch_size:,} rows, unless the corpus turns out to have more"


def _rows_read(training: TrainingConfig, epoch: int) -> int:
    """Rows of all optimizer steps, evaluations left out."""
    per_epoch = max(1, training.steps_per_epoch(epoch))
    return round(training.last_step(per_epoch) * epoch / per_epoch)


def _runs_alike(config: "Config") -> int:
    """Runs of the stage's matrix that read the same outputs as this one."""
    alike = 1
    for key, choices in axes(config.matrix).items():
        # Another method may read others, another option of it seldom does.
        if key != "method" and key.partition(".")[0] not in _OTHER_OUTPUTS:
            alike *= len(choices)
    return alike


def precision_of(asked: str, scaling: ScalingConfig) -> Precision:
    """What models of a training compute in, as far as it is known where no worker runs."""
    if asked == "auto" and scaling.use_gpu and not torch.cuda.is_available():
        # The GPUs are on other machines of the cluster, and those that trainings run on today have it.
        return "bf16"
    return resolve_precision(asked, use_gpu=scaling.use_gpu)


def demand_of(config: "Config", scaling: ScalingConfig, models: Sequence[Any]) -> Demand:
    """What the models of a training take, given their configurations, student first."""
    student, *teachers = models
    head, training = config.task.head, config.training
    size, of_teachers = (
        VALUE_BYTES[precision_of(asked, scaling)] for asked in (training.precision, training.precision_of_teachers)
    )
    return Demand(
        # Of workers that share weights the fewest hold the most.
        student_bytes(config, student, scaling.fewest_workers, value_bytes=size),
        tuple(
            teacher_bytes(reference, teacher, head=head, value_bytes=of_teachers)
            for reference, teacher in zip(config.teachers, teachers, strict=True)
        ),
    )


def decided(
    config: "Config", scaling: ScalingConfig, models: Sequence[Any], choice: Choice
) -> tuple[Choice, TeacherPlacement | None]:
    """Whether teachers run after all, and where they lie; no plan where none runs beside the student.

    ``models`` are the configurations, student first, ``choice`` is what sizes of data say. Raises ValueError, of one
    line, for a placement that the method cannot have, and for what is too large for ``scaling.memory_per_worker``.
    """
    teachers = models[1:]
    if choice.is_stored or not teachers or not config.method.distils:
        return choice, None
    plan = place(demand_of(config, scaling, models), _options(config, scaling, num_teachers=len(teachers)))
    return (Choice(STORED, plan.why, LIVE), None) if plan.is_captured else (choice, plan)


def _options(config: "Config", scaling: ScalingConfig, *, num_teachers: int) -> Options:
    method = config.method
    in_turn = method.requirements.execution.sequential_teachers
    for number, reference in enumerate(config.teachers):
        if reference.placement == SEQUENTIAL and not in_turn:
            raise UserError(
                f"teachers.{number}.placement is 'sequential', but method {method.name} needs its teachers in memory; "
                "write replicate or zero3"
            )
    limit = cluster.memory_per_worker(scaling)
    return Options(
        asked=tuple(reference.placement for reference in config.teachers),
        num_workers=scaling.fewest_workers,
        limit=scaling.memory_per_worker * _GIB if scaling.memory_per_worker else limit and limit * _SHARE,
        is_strict=scaling.memory_per_worker is not None,
        one_at_a_time=in_turn and num_teachers > 1,
        can_capture=may_capture(config),
    )


def held_by(config: "Config", scaling: ScalingConfig, models: Sequence[Any], plan: TeacherPlacement | None) -> float:
    """Bytes that a worker holds of student and teachers, given their configurations, student first."""
    demand = demand_of(config, scaling, models)
    if plan is None:
        return demand.student
    return held(demand, plan.placements, num_workers=scaling.fewest_workers)
