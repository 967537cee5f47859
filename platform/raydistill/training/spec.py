"""All that a training needs, resolved by the driver; workers get it as plain data and read nothing else."""

from typing import Any, Literal

from pydantic import Field, field_validator

from raydistill.config.named import MethodSpec, TaskSpec
from raydistill.config.sections import LoraConfig, ScalingConfig, Section
from raydistill.config.training import OptimizerConfig, TrainingConfig
from raydistill.data.mixture import CorpusPart
from raydistill.data.storages import storage_at
from raydistill.data.stored_outputs import StoredOutputs


class TeacherSpec(Section):
    """A teacher's checkpoint folder and where its weights lie."""

    folder: str
    placement: Literal["replicate", "zero3", "sequential"] = "replicate"
    head: Literal["pretrained", "new"] = "pretrained"
    """``new`` lets a checkpoint without the task's head start one, the same on every worker."""
    labels: list[str | None] = []
    """Names of a classifier's outputs in their order, where its configuration does not name them; None for one that is
    left out."""
    encoding: int = 0
    """Which of the corpus's tokenizers is its own: 0 the student's, from 1 the further ones."""
    quantization: Literal["int8"] | None = None
    """``int8`` holds a byte a weight of linear layers."""


class TrainSpec(Section):
    """One training: folders that every worker sees, and validated sections."""

    name: str
    corpus: list[CorpusPart]
    """The corpora to train on; a single URI stands for one of weight 1."""
    validation: list[CorpusPart]
    """The corpora for validation losses; as before."""
    student: str
    """Folder of the student as it starts, with its tokenizer."""
    freeze_position_embeddings: bool
    freeze_layers: list[int] = Field(default_factory=list)
    """Blocks of the student, from 0, that are not trained."""
    freeze_embeddings: bool = False
    lora: LoraConfig | None = None
    """Adapters of the student that are trained in place of its weights."""
    teachers: list[TeacherSpec] = Field(default_factory=list)
    """Teachers that run; none where their outputs are stored."""
    stored: StoredOutputs | None = None
    """Stored outputs of teachers on ``corpus``."""
    validation_stored: StoredOutputs | None = None
    """Those on ``validation``."""
    teacher_rows: int = 0
    """Rows that teachers were run on before the training, to store these."""
    task: TaskSpec
    method: MethodSpec
    training: TrainingConfig
    optimizer: OptimizerConfig
    scaling: ScalingConfig
    seed: int

    def fetched(self) -> "TrainSpec":
        """The same with the models' folders on this machine, fetched where they are not here."""
        teachers = [one.model_copy(update={"folder": str(storage_at(one.folder).fetch())}) for one in self.teachers]
        return self.model_copy(update={"student": str(storage_at(self.student).fetch()), "teachers": teachers})

    @field_validator("corpus", "validation", mode="before")
    @classmethod
    def _one_uri(cls, value: Any) -> Any:
        return [{"uri": value}] if isinstance(value, str) else value
