"""Jobs in Python: each stage is a method, and what stands in the job is the plain data of a job file.

So a job that is built, one that is read from a file, and one with overrides are validated by the same code and have the
same hashes.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from raydistill import discovery
from raydistill.api.methods import DistillationMethod
from raydistill.config import yaml_text
from raydistill.config.errors import error_lines
from raydistill.config.named import EncodingSpec, TaskSpec
from raydistill.environment import keep_quiet
from raydistill.job.load import STAGES, JobConfig, load_job, stage_type
from raydistill.job.preflight import check_job, report_lines
from raydistill.job.run import Echo, JobResult, run_job
from raydistill.options import Options, arranged, bound, section_documentation, signature_of
from raydistill.stages._base import BEST, INITIAL, StageConfig
from raydistill.user_error import UserError

if TYPE_CHECKING:
    from raydistill.job.load import Job as LoadedJob

_SHARED = [field for field in StageConfig.model_fields if field != "kind"]
"""Options of every stage."""
_PLAIN = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class StageHandle:
    """A stage of a job, given to later ones that read what it makes."""

    job: "Job"
    name: str
    """Its name in the job, which a string can say too: ``"train[seed=1]"`` is one run of a stage with a matrix."""
    suffix: str = ""
    """Which student of a training stage: "" for the trained one."""

    @property
    def reference(self) -> str:
        """How a job file refers to it."""
        return self.name + self.suffix

    @property
    def before_training(self) -> "StageHandle":
        """The student of a training stage as it was before."""
        return StageHandle(self.job, self.name, INITIAL)

    def best(self, name: str) -> "StageHandle":
        """One of the students that a training stage keeps by ``training.also_best``."""
        return StageHandle(self.job, self.name, BEST + name)

    def __repr__(self) -> str:
        return f"<stage {self.reference} of job {self.job.name}>"


class JobPlan(dict[str, list[str]]):
    """Lines about what each stage will do, by its name; printed, a line each."""

    def __str__(self) -> str:
        return "\n".join(f"{stage}: {line}" for stage, lines in self.items() for line in lines)


class _StageMethod:
    """A method that adds a stage of one kind, with the signature and the documentation of the stage's options."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def __get__(self, job: "Job | None", owner: type) -> Callable[..., Any]:
        function = _adding(self._kind)
        return function if job is None else MethodType(function, job)


@cache
def _adding(kind: str) -> Callable[..., StageHandle]:
    config = stage_type(kind).config_type
    parameters = signature_of(config, leads=False).parameters
    named = inspect.Parameter(_name_key(config), inspect.Parameter.KEYWORD_ONLY, default=None, annotation="str | None")
    signature = arranged([*(parameters[field] for field in (*_own(config), *_SHARED)), named])

    def add(job: "Job", *values: Any, **options: Any) -> StageHandle:
        return job._add(kind, bound(signature, values, options))

    add.__name__, add.__qualname__ = kind, f"Job.{kind}"
    add.__doc__ = _stage_documentation(kind, config)
    first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    add.__signature__ = inspect.Signature([first, *signature.parameters.values()])  # type: ignore[attr-defined]
    return add


def _own(config: type[StageConfig]) -> list[str]:
    return [field for field in config.model_fields if field not in StageConfig.model_fields]


def _name_key(config: type[StageConfig]) -> str:
    """How the name of a stage is given: ``stage`` where ``name`` is an option of its own."""
    return "stage" if "name" in config.model_fields else "name"


def _stage_documentation(kind: str, config: type[StageConfig]) -> str:
    summary = discovery.summary(STAGES, kind)
    name = f"{_name_key(config)}: str | None = None\n    Name of the stage, by default {kind!r}."
    return f"{summary}\n\n{section_documentation(config, names=[*_own(config), *_SHARED])}{name}\n"


class Job:
    """A job: stages that are added one by one, then planned and run as a job file is, whose keys the options have.

    ``options`` are ``storage``, ``seed``, ``description``, ``scaling`` and ``tracking``. Each kind of stage is a
    method, such as ``binarize``, ``train`` or ``evaluate``, whose options ``help(rd.Job.train)`` lists. It checks the
    stage at once and returns a handle, which later stages take wherever a file has a stage's name; ``name=`` names the
    stage, by default its kind does. A task that is not given is that of the corpus, and classes that an encoding does
    not name are those that the source's ``labels`` gives.

    Shapes: none; units: as each option says. Raises UserError, a ValueError with a line for each mistake: an option
    that there is not, a stage of another job, a name that is used twice, a reference that makes no model. Source: the
    job files in ``jobs/``.

    >>> job = rd.Job("reviews", storage="runs", seed=1)
    >>> source = rd.sources.Delimited("reviews.csv", label="stars", labels={1: "negative", 5: "positive"})
    >>> data = job.binarize(source, encoding=rd.tasks.Classification(max_length=128), tokenizer="base")
    >>> teacher = job.train(data, rd.Finetune(), student=rd.from_checkpoint("base", head="new"), name="teacher")
    >>> student = job.train(data, rd.KD(temperature=2), teachers=[teacher], student=rd.from_layers("base", [0, 4, 8]))
    >>> job.evaluate(data, {"teacher": teacher, "student": student})
    <stage evaluate of job reviews>
    >>> job.to_yaml("reviews.yaml")
    """

    if TYPE_CHECKING:

        def __getattr__(self, kind: str) -> Callable[..., StageHandle]: ...

    def __init__(self, name: str, **options: Any) -> None:
        keys = [key for key in JobConfig.model_fields if key not in ("name", "stages")]
        for option in options:
            if option not in keys:
                raise UserError(discovery.unknown_choice("option", option, keys))
        given = {option: self._plain(option, value) for option, value in options.items()}
        self._raw: dict[str, Any] = {"name": name, **given, "stages": {}}
        try:
            JobConfig.model_validate(self._raw)
        except ValidationError as error:
            # There are no stages yet.
            problems = [line for line in error_lines(error) if not line.startswith("stages ")]
            if problems:
                raise UserError(problems) from None

    @property
    def name(self) -> str:
        """The job's name."""
        return str(self._raw["name"])

    def as_data(self) -> dict[str, Any]:
        """What a job file has, as a copy."""
        copy: dict[str, Any] = yaml_text.plain_copy(self._raw)
        return copy

    def plan(self) -> JobPlan:
        """Check everything and tell what each stage will do; starts nothing. Raises UserError, a line a mistake."""
        return JobPlan(report_lines(check_job(self._loaded())))

    def run(self, *, echo: Echo = print) -> JobResult:
        """Check the job, then run what is not finished yet on the cluster that there is, or on this machine.

        ``echo`` gets a line for each stage that starts, ends or is skipped. Raises UserError as ``plan`` does.
        """
        keep_quiet()
        loaded = self._loaded()
        check_job(loaded)
        return run_job(loaded, echo=echo)

    def to_yaml(self, path: str | Path) -> None:
        """Write the job as a file for ``raydistill run``, which then finds finished what this job has run."""
        self._loaded()
        Path(path).write_text(yaml_text.dump(self._raw), encoding="utf-8")

    def __repr__(self) -> str:
        return f"<job {self.name}: {', '.join(self._raw['stages']) or 'no stages'}>"

    def _loaded(self) -> "LoadedJob":
        return load_job(self._raw)

    def _add(self, kind: str, options: Mapping[str, Any]) -> StageHandle:
        key = _name_key(stage_type(kind).config_type)
        name = options.get(key) or kind
        stages = self._raw["stages"]
        if not isinstance(name, str):
            raise UserError(f"{key} is {name!r}; give the name of the stage as a word")
        if name in stages:
            raise UserError(f"{key} is {name!r}, which a stage of job {self.name} has already; give it another {key}")
        section = {option: self._plain(f"{name}.{option}", value) for option, value in options.items() if option != key}
        section = {"kind": kind, **section, **self._derived(kind, section)}
        raw = {**self._raw, "stages": {**stages, name: section}}
        load_job(raw)
        self._raw = raw
        return StageHandle(self, name)

    def _derived(self, kind: str, section: Mapping[str, Any]) -> dict[str, Any]:
        """What a section leaves to the corpus that it reads, or to the source."""
        fields = stage_type(kind).config_type.model_fields
        if {"corpus", "task"} <= fields.keys() and "task" not in {**section, **section.get("matrix", {})}:
            return self._task_of(section.get("corpus"))
        if "encoding" in fields:
            return _with_labels(section)
        return {}

    def _task_of(self, corpus: Any) -> dict[str, Any]:
        """The task of a corpus that a stage of this job makes, with the options that its encoding shares with it."""
        first = corpus[0] if isinstance(corpus, list) and corpus else corpus
        name = first.get("corpus") if isinstance(first, dict) else first
        encoding = self._raw["stages"].get(name, {}).get("encoding") if isinstance(name, str) else None
        if encoding is None:
            return {}
        of_encoding = {"name": encoding} if isinstance(encoding, str) else encoding
        fields = inspect.signature(TaskSpec.config_type(of_encoding["name"])).parameters
        shared = {key: value for key, value in of_encoding.items() if key in fields}
        return {"task": {"name": of_encoding["name"], **shared}}

    def _plain(self, place: str, value: Any) -> Any:
        """A value as a job file has it; raises UserError, naming the place, for what no file can say."""
        if isinstance(value, StageHandle):
            if value.job is not self:
                raise UserError(f"{place} is a stage of another job, {value!r}; give a stage of job {self.name}")
            return value.reference
        if isinstance(value, DistillationMethod):
            value = {"name": value.name, **value.options}
        elif isinstance(value, Options):
            value = value.as_data()
        if isinstance(value, Mapping):
            return {self._key(place, key): self._plain(f"{place}.{key}", item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._plain(f"{place}.{number}", item) for number, item in enumerate(value)]
        if isinstance(value, Path):
            return str(value)
        if type(value) in _PLAIN:
            return value
        raise UserError(
            f"{place} is a {type(value).__name__}, which a job cannot keep; give a number, a word, the folder or name "
            "of a model, or a stage of the job"
        )

    def _key(self, place: str, key: Any) -> Any:
        if type(key) not in _PLAIN:
            raise UserError(f"{place} has the key {key!r}; give words or numbers")
        return key


def _with_labels(section: Mapping[str, Any]) -> dict[str, Any]:
    """The encoding with the classes that the source's labels name, where it can have classes and names none."""
    encoding, source = section.get("encoding"), section.get("source")
    of_encoding = {"name": encoding} if isinstance(encoding, str) else encoding
    if not isinstance(of_encoding, dict) or not isinstance(source, dict) or "labels" in of_encoding:
        return {}
    if of_encoding.get("name") not in discovery.names(EncodingSpec.PACKAGE):
        return {}
    field = inspect.signature(EncodingSpec.config_type(of_encoding["name"])).parameters.get("labels")
    label = source.get("label")
    named = label.get("names") if isinstance(label, dict) else (source.get("labels") or {}).values()
    names = list(dict.fromkeys(name for name in named or () if name is not None))
    if field is None or field.default != () or not names:
        return {}
    return {"encoding": {**of_encoding, "labels": names}}


for _kind in discovery.names(STAGES):
    setattr(Job, _kind, _StageMethod(_kind))
