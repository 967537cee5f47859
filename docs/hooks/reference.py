"""Pages of the reference, made from the docstrings of fields, commands and metrics when the site is built."""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, get_args

import typer
from pydantic import BaseModel

import raydistill as rd
from raydistill import discovery
from raydistill.cli import app
from raydistill.config import sections, training
from raydistill.config.explain import Key, keys_of
from raydistill.config.schema import alternatives
from raydistill.job.load import STAGES, JobConfig, PluginFile, stage_type
from raydistill.search import config as search
from raydistill.stages._base import StageConfig

_SHARED = (
    sections.ScalingConfig,
    sections.TrackingConfig,
    sections.CorpusRef,
    sections.ModelRef,
    sections.PackageRef,
    sections.TeacherConfig,
    sections.StudentConfig,
    sections.LoraConfig,
    training.TrainingConfig,
    training.FurtherBest,
    training.OptimizerConfig,
)
"""Sections that stages take, in the order of a job file."""
_PAGES = {
    "MethodSpec": "../methods/index.md",
    "TaskSpec": "tasks.md",
    "EncodingSpec": "tasks.md",
    "SourceSpec": "sources.md",
}
"""Where the choices of a key with a name are."""

_JOB = """\
The keys of a job file and the sections that its stages take. `raydistill explain KEY` prints the same, and
`raydistill schema` writes a JSON schema by which editors complete and check YAML."""
_STAGES = """\
A stage has a `kind`, the keys that every stage has, and those of its kind. The sections they name, such as
`StudentConfig`, are on [Keys of a job](job.md)."""
_TASKS = """\
A task says what a row means and how a model is scored on it. It stands in two places: as the `encoding` of a `binarize`
stage, which makes rows, and as the `task` of stages that read them."""
_SOURCES = "A source says where rows come from. It is the `source` of a `binarize` stage, and may be its `validation`."
_SPACES = "The keys of a file for `raydistill tune`. [Search](../tutorials/search.md) shows how they are used."
_METRICS = """\
The metrics of classifiers and regression that `metrics:` of a task chooses from. Language models, named entities and
questions have the metrics of their [task](tasks.md). A metric of your own is a [plug-in](../guides/extending.md)."""
_COMMANDS = """\
Every command prints its help with `--help`. The exit status is 0 when the command is done, 2 when you can fix the
mistake, 130 after Ctrl-C, and 1 for anything else. `--json` prints one document for machines."""
_PYTHON = """\
`import raydistill as rd` imports no library. The names below need torch and transformers, and those of jobs need the
`runtime` extra. [Methods in Python](../guides/python.md) shows how they are used together."""


def pages() -> dict[str, str]:
    """Text of every generated page of the reference, by its path in the site."""
    return {
        "reference/job.md": _page("Keys of a job", _JOB, _job()),
        "reference/stages.md": _page("Keys of each stage", _STAGES, _stages()),
        "reference/tasks.md": _page("Keys of each task", _TASKS, _modules("raydistill.tasks")),
        "reference/sources.md": _page("Keys of each source", _SOURCES, _modules("raydistill.data.sources")),
        "reference/spaces.md": _page("Keys of a search space", _SPACES, _spaces()),
        "reference/metrics.md": _page("Metrics", _METRICS, [_metrics()]),
        "reference/commands.md": _page("Commands", _COMMANDS, _commands(typer.main.get_command(app), "raydistill", 2)),
        "reference/python.md": _page("Python", _PYTHON, _python()),
    }


def options_of_method(name: str) -> str:
    """The table of a method's options, or a sentence where there are none."""
    keys = keys_of(discovery.load("raydistill.methods", name).Config)
    return _table(keys, f"{name}-") if keys else "This method has no options.\n"


def _page(title: str, lead: str, parts: Iterable[str]) -> str:
    return f"# {title}\n\n{lead}\n\n" + "\n\n".join(parts) + "\n"


def _job() -> Iterator[str]:
    yield "## The job\n\n" + _table(keys_of(JobConfig), "job-")
    yield "## A plug-in that a job carries\n\n" + _table(keys_of(PluginFile), "plugin-")
    for section in _SHARED:
        yield _section(section, 2)


def _stages() -> Iterator[str]:
    yield "## Every stage\n\n" + _table(keys_of(StageConfig), "stage-")
    for kind in discovery.names(STAGES):
        config = stage_type(kind).config_type
        own = [key for key in keys_of(config) if key.name not in StageConfig.model_fields]
        yield f"## {kind}\n\n{discovery.summary(STAGES, kind)}\n\n" + _table(own, f"{kind}-")
        for nested in _own_sections(config):
            yield _section(nested, 3, prefix=kind)


def _own_sections(config: type[BaseModel]) -> list[type[BaseModel]]:
    """Sections below this stage's keys that no page of jobs has, in the order of their keys."""
    found: dict[type[BaseModel], None] = {}

    def add(section: type[BaseModel]) -> None:
        for field in section.model_fields.values():
            for kind in _inner_types(field.annotation):
                known = (*_SHARED, *found)
                if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in known:
                    found[kind] = None
                    add(kind)

    add(config)
    return [section for section in found if section.model_fields]


def _inner_types(annotation: Any) -> Iterator[Any]:
    for kind in alternatives(annotation):
        yield kind
        for inner in get_args(kind):
            yield from _inner_types(inner)


def _spaces() -> Iterator[str]:
    yield "## The space\n\n" + _table(keys_of(search.SearchConfig), "space-")
    for section in (search.SearcherConfig, search.SchedulerConfig, search.BudgetConfig):
        yield _section(section, 2)


def _section(section: type[BaseModel], level: int, prefix: str = "") -> str:
    name = section.__name__
    about = _joined(section.__doc__ or "")
    anchor = _slug(prefix, name)
    return f"{'#' * level} {name} {{#{anchor}}}\n\n{about}\n\n" + _table(keys_of(section), f"{anchor}-")


def _modules(package: str) -> Iterator[str]:
    for name in discovery.names(package):
        module = discovery.load(package, name)
        yield f"## {name}\n\n{_joined(module.__doc__ or '')}"
        for config, title in (("EncodeConfig", "`encoding` of a `binarize` stage"), ("Config", _title_of(package))):
            keys = keys_of(getattr(module, config, None))
            if keys:
                yield f"{title}:\n\n" + _table(keys, f"{name}-{config.lower()}-")


def _title_of(package: str) -> str:
    return "`task` of other stages" if package.endswith("tasks") else "`source`"


def _metrics() -> str:
    rows = []
    for name in discovery.names("raydistill.metrics"):
        module: ModuleType = discovery.load("raydistill.metrics", name)
        better = "higher" if module.HIGHER_IS_BETTER else "lower"
        rows.append((f"`{name}`", module.OF, better, _joined(module.__doc__ or "")))
    return _markdown_table(("Metric", "Of", "Better", "Meaning"), rows)


def _commands(command: Any, path: str, level: int) -> Iterator[str]:
    """A command with its arguments and options, then those below it."""
    if path != "raydistill":
        yield f"{'#' * level} {path}\n\n{_help(command.help or '')}"
        rows = [
            (_written(each), _joined(getattr(each, "help", "") or "")) for each in command.params if each.name != "help"
        ]
        if rows and not hasattr(command, "commands"):
            yield _markdown_table(("Argument", "Meaning"), rows)
    for name, each in getattr(command, "commands", {}).items():
        yield from _commands(each, f"{path} {name}", level if path == "raydistill" else level + 1)


def _help(text: str) -> str:
    """Help with its example as a block of code."""
    about, mark, example = inspect.cleandoc(text).partition("\b")
    shown = inspect.cleandoc(example.strip("\n")).splitlines()[1:] if mark else []
    block = "\n\n```console\n" + "\n".join(line.strip() for line in shown) + "\n```" if shown else ""
    return _joined(about) + block


def _written(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar or parameter.name.upper()}`"
    return ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))


def _python() -> Iterator[str]:
    yield "## Methods\n\n" + "\n".join(
        f"* `rd.{discovery.class_name(name)}`: {discovery.summary('raydistill.methods', name)} "
        f"[Options](../methods/{name}.md#options)"
        for name in discovery.names("raydistill.methods")
    )
    for title, names in _python_names().items():
        yield f"## {title}"
        yield from (f"::: {name}" for name in names)


def _python_names() -> Mapping[str, Sequence[str]]:
    def where(holder: Any, names: Iterable[str]) -> list[str]:
        return [f"{getattr(holder, name).__module__}.{name}" for name in names]

    return {
        "A method on models": where(rd, ("Distillation", "DistillationMethod")),
        "In transformers' Trainer": [f"raydistill.hf.{name}" for name in rd.hf.__all__],
        "Students": where(rd, ("student_from_layers", "sliced_student")),
        "Predictions": where(rd, ("Predictor",)),
        "Jobs": where(rd, ("Job", "from_checkpoint", "from_layers")),
        "Losses": where(rd.losses, rd.losses.__all__),
    }


def _table(keys: Sequence[Key], anchor: str) -> str:
    rows = [(f"`{key.name}`{{#{_slug(anchor, key.name)}}}", _type(key), _default(key), _meaning(key)) for key in keys]
    return _markdown_table(("Key", "Type", "Default", "Meaning"), rows)


def _type(key: Key) -> str:
    """The type; that of a section leads to its keys."""
    places = {**_PAGES, **{section.__name__: f"job.md#{_slug(section.__name__)}" for section in _SHARED}}
    place = next((places[name] for name in re.findall(r"\w+", key.kind) if name in places), None)
    return f"`{key.kind}`" if place is None else f"[`{key.kind}`]({place})"


def _default(key: Key) -> str:
    if key.default.startswith("{'"):
        return "its section's"
    return f"`{key.default}`" if key.default else "required"


def _meaning(key: Key) -> str:
    limits = f" ({'; '.join(key.limits)})" if key.limits else ""
    return _joined(key.meaning) + limits


def _markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_cell(each) for each in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Text in which no bar ends a cell; inside of code none does."""
    return _outside_code(text, "|", "\\|")


def _outside_code(text: str, old: str, new: str) -> str:
    parts = re.split("(`+[^`]*`+)", text)
    return "".join(part if part.startswith("`") else part.replace(old, new) for part in parts)


def _joined(text: str) -> str:
    """Prose on one line a paragraph, with its angle brackets as text."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return _outside_code(" ".join(" ".join(part.split()) for part in paragraphs), "<", "&lt;")


def _slug(*parts: str) -> str:
    return re.sub(r"[^a-z0-9_]+", "-", "-".join(part for part in parts if part).lower()).strip("-")
