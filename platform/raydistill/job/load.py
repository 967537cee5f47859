"""From a job file's plain data to validated stages and the runs that they make."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError

from raydistill import discovery
from raydistill.config.errors import choice_error, error_lines
from raydistill.config.matrix import SEED, assigned, axes, combinations
from raydistill.config.schema import has_key
from raydistill.config.sections import Labels, ScalingConfig, Section, TrackingConfig
from raydistill.job.expand import StageRun, expand
from raydistill.job.model_labels import with_labels
from raydistill.job.plugin_files import use_plugins, with_texts
from raydistill.stages._base import Stage, StageConfig, stage_of
from raydistill.user_error import UserError

STAGES = "raydistill.stages"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_LONGEST_NAME = 200
"""Letters of a job's or a stage's name: names of folders have 255 bytes, and hashes and endings follow."""


def stage_type(kind: str) -> type[Stage]:
    """The ``Stage`` class of ``stages/<kind>.py``; raises ValueError when there is none."""
    found: type[Stage] = discovery.load(STAGES, kind, key="kind").Stage
    return found


def _parse_stage(value: Any) -> StageConfig:
    if not isinstance(value, Mapping):
        raise UserError("write a mapping with a kind and that stage's keys")
    choices = discovery.names(STAGES)
    if "kind" not in value:
        raise UserError(f"kind is missing; choices: {', '.join(choices)}")
    if value["kind"] not in choices:
        raise choice_error("stage", "kind", value["kind"], choices)
    # With a matrix, a key may stand there alone: its first value takes its place.
    matrix = value.get("matrix") or {}
    if not isinstance(matrix, Mapping):
        raise UserError(f"matrix is {matrix!r}; write dotted keys, each with a list of values")
    first = combinations(axes(matrix))[0]
    config_type = stage_type(value["kind"]).config_type
    return config_type.model_validate({**assigned(value, first), "matrix": matrix} if matrix else dict(value))


StageField = Annotated[
    StageConfig, BeforeValidator(_parse_stage), PlainSerializer(lambda config: config.model_dump(mode="json"))
]


class PluginFile(Section):
    """A plug-in with its content, as a job holds it on its way."""

    file: str
    """Its name as the job file has it. The last part, without ``.py``, is the name of the plug-in."""
    text: str
    """Its content."""


class JobConfig(Section):
    """A job file."""

    name: Annotated[str, Field(pattern=rf"^{_NAME.pattern}$", max_length=_LONGEST_NAME)]
    """The name of the run folder and of the MLflow experiment: letters, digits, ``_`` and ``-``."""
    description: str = ""
    """One sentence for ``raydistill ls jobs``."""
    storage: str = "runs"
    """The folder in which the job's folder lies. With several machines, write a folder that all of them see, or
    ``s3://BUCKET/PATH``, a place in an object store."""
    seed: int = 42
    """The seed of every random draw: row order, masks, partners, sites, dropout."""
    tracking: TrackingConfig = TrackingConfig()
    """Where MLflow keeps runs and models."""
    scaling: ScalingConfig = ScalingConfig()
    """Processes of the stages that have no ``scaling`` of their own."""
    labels: dict[str, Labels] = {}
    """Names of the outputs of checkpoints in the corpus, by the checkpoint's name. They are the ``labels`` of every
    reference to that checkpoint that has none of its own."""
    plugins: list[str | PluginFile] = []
    """Methods, tasks, sources and metrics of your own: files that end in ``.py``, relative to the job file, and
    installed modules, such as ``package.module``. The last part of the name is how the job calls it."""
    reuse: list[str] = Field(default=[], exclude_if=lambda value: not value)
    """Folders that hold outputs of other jobs and campaigns. A stage that finished there with the same configuration
    and inputs is read from there and does not run again."""
    stages: Annotated[dict[str, StageField], Field(min_length=1)]
    """Stages by name, run in this order."""


@dataclass(frozen=True)
class Job:
    """A validated job: its configuration and its runs in order."""

    config: JobConfig
    runs: dict[str, StageRun]
    """By name; a stage without a matrix is one run of the stage's name."""

    @property
    def name(self) -> str:
        """The job's name."""
        return self.config.name

    @property
    def stages(self) -> dict[str, Stage]:
        """The stage of each run, by the run's name."""
        return {name: run.stage for name, run in self.runs.items()}

    def scaling(self, stage: Stage) -> ScalingConfig:
        """Processes of a stage: its own section, else the job's."""
        own: ScalingConfig | None = stage.config.scaling
        return own or self.config.scaling

    def seed(self, run: StageRun) -> int:
        """Key of a run's draws: its matrix's, that of the runs it is made from, its stage's or the job's."""
        if SEED in run.assignment:
            return int(run.assignment[SEED])
        own: int | None = run.stage.config.seed
        return self.config.seed if own is None else own

    def given(self) -> dict[str, Any]:
        """What the job says otherwise than by default, as plain data: its seed, and each stage's keys by its name."""
        stages = {
            name: stage.model_dump(mode="json", exclude_defaults=True) for name, stage in self.config.stages.items()
        }
        return {"seed": self.config.seed, **stages}

    def dump(self) -> dict[str, Any]:
        """The whole configuration as plain data, every default written out."""
        return self.config.model_dump(mode="json")


def load_job(raw: Mapping[str, Any]) -> Job:
    """Validate a job's plain data, whose plug-ins are then known.

    Raises UserError with one line for each mistake.
    """
    raw = with_texts(raw)
    use_plugins(raw)
    try:
        config = JobConfig.model_validate(dict(raw))
    except ValidationError as error:
        raise UserError(error_lines(error)) from None
    problems = [
        f"stages.{name} is not a stage name; use letters, digits, _ and -"
        for name in config.stages
        if not _NAME.fullmatch(name)
    ]
    problems += [
        f"stages.{name[:20]}... has a name of {len(name)} letters; shorten it to {_LONGEST_NAME}"
        for name in config.stages
        if len(name) > _LONGEST_NAME
    ]
    config = config.model_copy(update={"stages": with_labels(config.stages, config.labels)})
    stages = {name: stage_type(stage.kind)(name, stage) for name, stage in config.stages.items()}
    problems += _forward_references(stages)
    if problems:
        raise UserError(problems)
    runs = expand(config.stages, raw["stages"], stage_type)
    return Job(config, {name: _labelled(run, config.labels) for name, run in runs.items()})


def _labelled(run: StageRun, labels: Mapping[str, Labels]) -> StageRun:
    """A run whose stage has what the job says of checkpoints; one of a matrix is made from the stage's plain data."""
    stage = run.stage
    return replace(run, stage=type(stage)(stage.name, with_labels(stage.config, labels)))


def _forward_references(stages: Mapping[str, Stage]) -> list[str]:
    order = list(stages)
    return [
        f"stages.{name}.{key} is {reference!r}, which does not come before {name}; move it up"
        for position, (name, stage) in enumerate(stages.items())
        for key, reference in stage.references().items()
        if stage_of(reference) in order[position:]
    ]


def accepts(raw: Mapping[str, Any]) -> Any:
    """A function that tells whether a stage of the raw job takes a dotted path, as overrides ask it."""
    use_plugins(with_texts(raw))

    def stage_accepts(name: str, path: list[str]) -> bool:
        value = raw["stages"][name]
        kind = value.get("kind") if isinstance(value, Mapping) else None
        if kind not in discovery.names(STAGES):
            return False
        return has_key(stage_type(kind).config_type, path, value)

    return stage_accepts
