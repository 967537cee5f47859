"""All that a training needs, resolved by the driver; workers get it as plain data and read nothing else."""

from typing import Literal

from pydantic import Field

from raydistill.config.named import MethodField, TaskField
from raydistill.config.sections import OptimizerConfig, ScalingConfig, Section, TrainingConfig


class TeacherSpec(Section):
    """A teacher's checkpoint folder and where its weights lie."""

    folder: str
    placement: Literal["replicate", "zero3"] = "replicate"
    head: Literal["pretrained", "new"] = "pretrained"
    """``new`` lets a checkpoint without the task's head start one, the same on every worker."""


class TrainSpec(Section):
    """One training: folders that every worker sees, and validated sections."""

    name: str
    corpus: str
    """URI of the corpus to train on."""
    held_out: str
    """URI of the corpus for held-out losses."""
    student: str
    """Folder of the student as it starts, with its tokenizer."""
    freeze_position_embeddings: bool
    teachers: list[TeacherSpec] = Field(default_factory=list)
    task: TaskField
    method: MethodField
    training: TrainingConfig
    optimizer: OptimizerConfig
    scaling: ScalingConfig
    seed: int
