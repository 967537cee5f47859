"""What every stage is: a configuration, what it reads, what it decides before running, and a run."""

import hashlib
import json
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import Field, field_validator

from raydistill.config.directions import Directions
from raydistill.config.matrix import Assignment, axes
from raydistill.config.sections import ScalingConfig, Section
from raydistill.data.input_splits import PARTS
from raydistill.store_paths import local_path
from raydistill.tasks._base import Column
from raydistill.tracking.tracker import Tracker
from raydistill.training.result import TrainResult
from raydistill.training.selection import FURTHER

_logger = logging.getLogger(__name__)
RECORD = "stage.json"
"""File in the output of a finished run that has its summary."""
INITIAL = "@initial"
"""Suffix that names a training stage's student as it was before training."""
BEST = f"@{FURTHER}"
"""What a suffix starts with that names one of its further best students."""
_SUFFIX = re.compile(f"({INITIAL}|{BEST}[a-z0-9_]+)?$")


class StageConfig(Section):
    """Keys that every stage has."""

    kind: str
    """Which stage it is: a file name in ``raydistill/stages``."""
    scaling: ScalingConfig | None = None
    """Processes of this stage; by default the job's ``scaling``."""
    seed: int | None = None
    """The seed of this stage's random draws; by default the job's ``seed``."""
    matrix: dict[str, Any] = {}
    """Dotted keys of this stage, each with a list of values: the stage runs once for each combination."""
    max_parallel: Annotated[int, Field(ge=1)] | None = None
    """How many runs of a matrix may run at a time; by default as many as the cluster has room for."""

    @field_validator("matrix")
    @classmethod
    def _has_axes(cls, value: dict[str, Any]) -> dict[str, Any]:
        axes(value)
        return value


@dataclass(frozen=True)
class TokenizerFacts:
    """What is known of a teacher tokenizer of a corpus."""

    vocab_size: int
    max_length: int
    """Longest row that it makes."""
    tokenizer_hash: str | None = None
    """None while the tokenizer is not made yet."""


@dataclass(frozen=True)
class CorpusFacts:
    """What is known of a corpus before or after it is made."""

    task: str
    vocab_size: int
    max_length: int
    tokenizer_hash: str | None = None
    """What the ids mean; None while the tokenizer is not made yet."""
    rows: int | None = None
    tokens: int | None = None
    labels: tuple[str, ...] = ()
    """The names of the classes in the order of their ids."""
    validation_rows: int | None = None
    columns: Mapping[str, Column] = field(default_factory=dict)
    """What each row has beside its ids."""
    has_train: bool = True
    """Whether it has rows to train on, and not only validation ones."""
    unlabelled: tuple[str, ...] = ()
    """Parts, ``train`` and ``validation``, whose rows lack the labels of their task."""
    teacher_tokenizers: tuple[TokenizerFacts, ...] = ()

    @property
    def hashes(self) -> tuple[str | None, ...]:
        """Of each encoding that of its tokenizer, the corpus's own first; None while that is not made yet."""
        return (self.tokenizer_hash, *(one.tokenizer_hash for one in self.teacher_tokenizers))

    def as_encoded(self, encoding: int) -> "CorpusFacts":
        """The corpus with its rows in the ids of an encoding, 0 for its own."""
        if encoding == 0:
            return self
        one = self.teacher_tokenizers[encoding - 1]
        return replace(
            self, vocab_size=one.vocab_size, max_length=one.max_length, tokenizer_hash=one.tokenizer_hash, tokens=None
        )


@dataclass(frozen=True)
class OutputsFacts:
    """What is stored of teachers."""

    teachers: tuple[str, ...]
    """How the teachers are named; none where the outputs are there and are compared by what they are of."""
    corpora: tuple[str, ...]
    """How the corpora are named; as before."""
    kinds: tuple[str, ...]
    layers: tuple[int, ...]
    """Numbers k of the hidden states hs[k] whose CLS states are stored."""
    labels: tuple[tuple[str, ...], ...]
    """For each teacher the names of the classes of its logits; where no teacher is named, of each that there are."""
    names: tuple[tuple[str | None, ...], ...] = ()
    """For each teacher what its checkpoint's outputs were said to be."""
    temperature: float = 1.0
    """By which logits were divided before the likeliest ids were kept."""
    task: Mapping[str, Any] = field(default_factory=dict)
    """Section of the task that prepared the rows."""


@dataclass(frozen=True)
class ScoresFacts:
    """Whose heads and neurons are scored."""

    model: str
    """How the model is named."""
    config: Any
    """Its transformers configuration."""
    head: str
    tokenizer_hash: str | None = None


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model, or of the student of a training and of what it was before."""

    configs: Mapping[str, Any]
    """The transformers configuration by the suffix of a reference, such as "" or "@initial"."""
    tokenizer_hash: str | None = None
    """Hash of their tokenizer; None where that is not known."""
    metrics: tuple[str, ...] | None = None
    """Metrics of the task that its training logs, none where validation rows have no labels; None where none trains."""
    exported_from: str | None = None
    """How the model is named of which it is an export, which another runtime than torch runs; None of any other."""
    choices: tuple[Assignment, ...] = ()
    """Of a model that is chosen among runs, the matrix keys of each."""


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation tells."""

    entries: tuple[Mapping[str, Any], ...]
    """As its summary has them: model, reference, assignment and figures, whose values are not known and stand as 0."""
    metrics: tuple[str, ...]
    """The task's metrics that it compares models by, its own first."""
    directions: Directions
    """All figures that it may have, and of each which value is better."""
    of_rows: tuple[str, ...] = ()
    """Those of the metrics that are means over rows, of which each model's predictions tell the values."""

    @property
    def models(self) -> list[str]:
        """Names of the models that it compares."""
        return list(dict.fromkeys(entry["model"] for entry in self.entries))


@dataclass(frozen=True)
class ComparisonFacts:
    """What a comparison tells: of students beside the same student without distillation, and their teacher."""

    metric: str
    models: tuple[str, ...]


Facts = CorpusFacts | OutputsFacts | ScoresFacts | ModelFacts | Evaluated | ComparisonFacts
FactsT = TypeVar("FactsT", CorpusFacts, OutputsFacts, ScoresFacts, ModelFacts, Evaluated, ComparisonFacts)


@dataclass(frozen=True)
class Input:
    """What a reference leads to: what an earlier stage will make or, once it ran, the folder that it left.

    Of a registered model the folder of its checkpoint, before anything runs too.
    """

    facts: Facts | None = None
    """What is planned; of what is there the folder tells more."""
    folder: Path | None = None
    runs: Mapping[str, Assignment] = field(default_factory=dict)
    """Runs of the stage that the reference means, by their names with the keys of a matrix that made each."""

    @property
    def num_runs(self) -> int:
        """How many runs there are; what is no stage counts as one."""
        return max(1, len(self.runs))


Inputs = Mapping[str, Input]
"""By the name that a reference uses; other references are to folders and models outside the job."""


def planned(kind: type[FactsT], reference: str, inputs: Inputs) -> FactsT | None:
    """The facts of this kind that a reference leads to; None where it leads to others, or to no earlier stage."""
    found = inputs.get(reference)
    return found.facts if found is not None and isinstance(found.facts, kind) else None


def folder_of(reference: str, inputs: Inputs) -> Path | None:
    """The folder that a reference means; None for what an earlier stage will make."""
    found = inputs.get(reference)
    return local_path(reference) if found is None else found.folder


@dataclass(frozen=True)
class Decisions:
    """What a stage will do: decided before anything runs, and by the same code once more when the stage does."""

    lines: list[str] = field(default_factory=list)
    """What the preflight says of it."""
    makes: Facts | None = None


@dataclass(frozen=True)
class Run:
    """One finished run of an earlier stage: the stage itself, or one child of its matrix."""

    name: str
    """Such as ``distill``, or ``distill[seed=1]`` for a child."""
    assignment: Assignment
    """Matrix keys and their values in this child, empty for a stage without a matrix."""
    output: Path
    summary: Mapping[str, Any]


@dataclass(frozen=True)
class StageContext:
    """What a running stage is given: where to write, what earlier stages wrote, and the tracker."""

    job_name: str
    seed: int
    scaling: ScalingConfig
    output: Path
    runs: Mapping[str, Sequence[Run]]
    """Runs of each stage that is referred to, by the name used: one, or all for a stage that aggregates."""
    tracker: Tracker
    run_key: str
    parallel: int = 1
    """Runs that share the machine or cluster at this time."""
    storage: Path | None = None
    """The job's storage, for what other jobs may use too."""
    facts: Mapping[str, Facts | None] = field(default_factory=dict)
    """What was planned of each stage that is referred to."""
    registered: Mapping[str, Path] = field(default_factory=dict)
    """Checkpoint folder of each registered model that is referred to, by the reference."""
    echo: Callable[[str], None] = _logger.info
    """Tells the user a line."""
    resolved: Path | None = None
    """The job's file with every default, for what tells how to repeat it; None where no whole job runs."""
    launch: Callable[..., TrainResult] | None = None
    """What trains, called as ``raydistill.training.trainer.train``, which it is by default."""

    @property
    def inputs(self) -> Inputs:
        """Each stage, of one with several runs the first one's facts and folder, and each registered model's folder."""
        made = {
            name: Input(self.facts.get(name), found[0].output, {run.name: run.assignment for run in found})
            for name, found in self.runs.items()
        }
        return {**made, **{reference: Input(folder=folder) for reference, folder in self.registered.items()}}

    @property
    def outputs(self) -> dict[str, Path]:
        """The folders of stages as paths."""
        return {name: found[0].output for name, found in self.runs.items()}


class Stage(ABC):
    """One step of a job; a subclass named ``Stage`` in ``stages/<kind>.py``."""

    config_type: ClassVar[type[StageConfig]]
    FORMAT: ClassVar[int] = 1
    """A part of the hash of what it makes: another number where the same configuration comes to make something else."""
    PARTS: ClassVar[tuple[str, ...]] = PARTS
    """Parts of a corpus that it reads."""
    aggregates: ClassVar[bool] = False
    """Reads all runs of an input that has several in one run, instead of running once for each of them."""
    trains: ClassVar[bool] = False
    """Calls ``StageContext.launch``."""

    def __init__(self, name: str, config: Any) -> None:
        self.name = name
        self.config = config

    @abstractmethod
    def references(self) -> dict[str, str]:
        """Dotted key to the text that may name an earlier stage, for every input."""

    @abstractmethod
    def plan(self, scaling: ScalingConfig, inputs: Inputs) -> Decisions:
        """Find what would fail later and decide what can be decided; starts no cluster.

        Raises ValueError with one line that names key, value and remedy.
        """

    @abstractmethod
    def run(self, context: StageContext) -> dict[str, Any]:
        """Do the work, leave it in ``context.output`` and return a JSON-ready summary.

        An interrupted run is called again with the same folder and continues what it finds there.
        """

    def leftovers(self, output: Path, named: Collection[str]) -> list[Path]:
        """Folders of its output that nothing reads once it is finished.

        ``named`` has the suffixes by which the job's stages refer to it.
        """
        return []

    def restore(self, named: Collection[str], context: StageContext) -> None:  # noqa: B027 (most have nothing to make)
        """Make again what ``leftovers`` gave away and is named now."""

    def identity(self, scaling: ScalingConfig) -> dict[str, Any]:
        """What the output depends on, as plain data; how many processes made it is left out."""
        return self.config.model_dump(mode="json", exclude={"scaling", "seed", "matrix", "max_parallel"})


def stage_of(reference: str) -> str:
    """The stage that a reference names: ``distill@initial`` gives ``distill``."""
    return _SUFFIX.sub("", reference)


def suffix_of(reference: str) -> str:
    """Which student of the stage it means: ``@initial``, ``@best_`` with a name, or nothing for the trained one."""
    return reference.removeprefix(stage_of(reference))


def stage_hash(identity: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Hash of a stage's configuration and of the hashes of its inputs, 16 hexadecimal digits."""
    content = json.dumps({"identity": identity, "inputs": dict(inputs)}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
