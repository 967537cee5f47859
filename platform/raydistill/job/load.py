"""From a job file's plain data to validated stages."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError

from raydistill import discovery
from raydistill.config.errors import UserError, choice_error, error_lines
from raydistill.config.schema import has_key
from raydistill.config.sections import ScalingConfig, Section, TrackingConfig
from raydistill.stages._base import Stage, StageConfig, stage_of

STAGES = "raydistill.stages"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def stage_type(kind: str) -> type[Stage]:
    """The ``Stage`` class of ``stages/<kind>.py``; raises ValueError when there is none."""
    found: type[Stage] = discovery.load(STAGES, kind, key="kind").Stage
    return found


def _parse_stage(value: Any) -> StageConfig:
    if not isinstance(value, Mapping):
        raise ValueError("write a mapping with a kind and that stage's keys")
    choices = discovery.names(STAGES)
    if "kind" not in value:
        raise ValueError(f"kind is missing; choices: {', '.join(choices)}")
    if value["kind"] not in choices:
        raise choice_error("stage", "kind", value["kind"], choices)
    return stage_type(value["kind"]).config_type.model_validate(dict(value))


StageField = Annotated[
    Any, BeforeValidator(_parse_stage), PlainSerializer(lambda config: config.model_dump(mode="json"))
]


class JobConfig(Section):
    """A job file."""

    name: Annotated[str, Field(pattern=rf"^{_NAME.pattern}$")]
    """Names the run folder and the MLflow experiment: letters, digits, ``_`` and ``-``."""
    description: str = ""
    """One sentence for ``raydistill ls jobs``."""
    storage: str = "runs"
    """Folder under which the job's folder lies; with several machines, one that all of them see."""
    seed: int = 42
    """Key of every draw: row order, masks, partners, sites, dropout."""
    tracking: TrackingConfig = TrackingConfig()
    scaling: ScalingConfig = ScalingConfig()
    stages: Annotated[dict[str, StageField], Field(min_length=1)]
    """Stages by name, run in this order."""


@dataclass(frozen=True)
class Job:
    """A validated job: its configuration and its stages in order."""

    config: JobConfig
    stages: dict[str, Stage]

    @property
    def name(self) -> str:
        """The job's name."""
        return self.config.name

    def scaling(self, stage: Stage) -> ScalingConfig:
        """Processes of a stage: its own section, else the job's."""
        own: ScalingConfig | None = stage.config.scaling
        return own or self.config.scaling

    def inputs(self, stage: Stage) -> dict[str, str]:
        """Dotted key to the name of the earlier stage it refers to; references to the outside are left out."""
        earlier = list(self.stages)[: list(self.stages).index(stage.name)]
        named = {key: stage_of(reference) for key, reference in stage.references().items()}
        return {key: name for key, name in named.items() if name in earlier}

    def dump(self) -> dict[str, Any]:
        """The whole configuration as plain data, every default written out."""
        return self.config.model_dump(mode="json")


def load_job(raw: Mapping[str, Any]) -> Job:
    """Validate a job's plain data.

    Raises UserError with one line for each mistake.
    """
    try:
        config = JobConfig.model_validate(dict(raw))
    except ValidationError as error:
        raise UserError(error_lines(error)) from None
    problems = [
        f"stages.{name} is no stage name; use letters, digits, _ and -"
        for name in config.stages
        if not _NAME.fullmatch(name)
    ]
    stages = {name: stage_type(stage.kind)(name, stage) for name, stage in config.stages.items()}
    problems += _forward_references(stages)
    if problems:
        raise UserError(problems)
    return Job(config, stages)


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

    def stage_accepts(name: str, path: list[str]) -> bool:
        value = raw["stages"][name]
        kind = value.get("kind") if isinstance(value, Mapping) else None
        if kind not in discovery.names(STAGES):
            return False
        return has_key(stage_type(kind).config_type, path, value)

    return stage_accepts
