"""Sections that pick a module by name: ``method: {name: causal, temperature: 2}`` becomes a ``MethodSpec``.

Such a spec is the annotation of its field. It is validated where it enters; one that is made already passes through.
"""

import dataclasses
import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter, ValidationError, with_config
from pydantic_core import CoreSchema, SchemaValidator, core_schema

from raydistill import discovery
from raydistill.config.errors import choice_error, with_choices
from raydistill.config.section import FINITE, with_plain_numbers
from raydistill.options import options_of, unwritten
from raydistill.plugins import METHODS, METRICS, SOURCES, TASKS, Plugin
from raydistill.user_error import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from torch import nn

    from raydistill.batch import Batch
    from raydistill.methods._base import Distiller, Requirements
    from raydistill.tasks._base import Column, Encoding, TaskBase


@cache
def _validator(config_type: type) -> SchemaValidator:
    """What makes the options of a module of plain data; refuses unknown keys and numbers that are none."""
    return SchemaValidator(with_plain_numbers(TypeAdapter(with_config(FINITE)(config_type)).core_schema))


@dataclass(frozen=True)
class Named:
    """A module found by name and its validated options."""

    PACKAGE: ClassVar[str]
    ATTRIBUTE: ClassVar[str] = "Config"
    """The module's dataclass of options."""

    name: str
    config: "DataclassInstance"
    """The module's validated options."""
    plugins: tuple[Plugin, ...] = ()
    """What of it is in plug-ins: the module itself, then what its options name. They travel with it."""

    @classmethod
    def config_type(cls, name: str) -> "type[DataclassInstance]":
        """The dataclass of options of module ``name``; raises ValueError when there is none."""
        config_type: type[DataclassInstance] = getattr(discovery.load(cls.PACKAGE, name), cls.ATTRIBUTE)
        assert dataclasses.is_dataclass(config_type)
        return config_type

    @classmethod
    def parse(cls, value: Any) -> Self:
        """A spec from ``{"name": ..., **options}``, from the bare name, or from one that is made already.

        Raises ValueError for what is no such section, an unknown name included, and pydantic's ValidationError for
        options that the module does not have or take.
        """
        if isinstance(value, cls):
            return value
        kind = cls.PACKAGE.rpartition(".")[2].removesuffix("s")
        if not isinstance(value, str | dict):
            raise UserError(f"write the name of a {kind}, or its name and options as {{name: ..., key: value}}")
        section = {"name": value} if isinstance(value, str) else dict(value)
        choices = discovery.names(cls.PACKAGE)
        if "name" not in section:
            raise UserError(f"name is missing; choices: {', '.join(choices)}")
        name = section.pop("name")
        if name not in choices:
            raise choice_error(kind, "name", name, choices)
        config_type = cls.config_type(name)
        try:
            config = _validator(config_type).validate_python(section)
        except ValidationError as error:
            fields = [field.name for field in dataclasses.fields(config_type)]
            raise with_choices(error, fields, owner=f"{kind} {name}") from None
        found = [discovery.plugin(*each) for each in ((cls.PACKAGE, name), *cls._names_in(config))]
        return cls(name, config, tuple(plugin for plugin in found if plugin is not None))

    @classmethod
    def _names_in(cls, config: "DataclassInstance") -> list[tuple[str, str]]:
        """Package and name of each further module that options name."""
        return []

    def __reduce__(self) -> Any:
        # The options are of a class that another process has once it knows the plug-ins.
        return _arrived, (type(self), self.name, self.plugins, pickle.dumps(self.config))

    def __deepcopy__(self, memo: Any) -> Self:
        # Nothing of it changes, and it came from no other process.
        return self

    @property
    def own_plugins(self) -> tuple[Plugin, ...]:
        """The plug-in that is the module itself, if it is one."""
        return tuple(plugin for plugin in self.plugins if (plugin.package, plugin.name) == (self.PACKAGE, self.name))

    @property
    def _module(self) -> ModuleType:
        return self.own_plugins[0].load() if self.own_plugins else discovery.load(self.PACKAGE, self.name)

    def dump(self) -> dict[str, Any]:
        """The section as plain data, every default written out but those of ``options.later``."""
        found = TypeAdapter(type(self.config)).dump_python(self.config, mode="json", exclude=unwritten(self.config))
        return {"name": self.name, **found}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.plain_serializer_function_ser_schema(cls.dump)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The name of a module, or its name with its options."""
        choices = discovery.names(cls.PACKAGE)
        options = [
            {"if": {"properties": {"name": {"const": name}}}, "then": cls._options_schema(name)} for name in choices
        ]
        section = {"type": "object", "required": ["name"], "properties": {"name": {"enum": choices}}, "allOf": options}
        return {"anyOf": [{"enum": choices}, section]}

    @classmethod
    def _options_schema(cls, name: str) -> dict[str, Any]:
        found = TypeAdapter(with_config(FINITE)(cls.config_type(name))).json_schema()
        meanings = {option: meaning for option, _, meaning in options_of(cls.config_type(name))}
        properties = {
            # What refers to definitions of its own is described and not checked.
            option: {**({} if "$ref" in str(schema) else schema), "description": meanings.get(option, "")}
            for option, schema in found.get("properties", {}).items()
        }
        return {"properties": {"name": {}, **properties}, "additionalProperties": False}


NamedT = TypeVar("NamedT", bound=Named)


def _arrived(kind: type[NamedT], name: str, plugins: tuple[Plugin, ...], config: bytes) -> NamedT:
    """A spec that comes from another process."""
    discovery.arrived(plugins)
    for plugin in plugins:
        plugin.load()
    return kind(name, pickle.loads(config), plugins)


def plugins_in(value: Any) -> list[Plugin]:
    """The plug-ins of all specs in a section of a job, in its order."""
    if isinstance(value, Named):
        return list(value.plugins)
    if isinstance(value, BaseModel):
        inner: Iterable[Any] = (getattr(value, name) for name in type(value).model_fields)
    elif isinstance(value, Mapping):
        inner = value.values()
    else:
        inner = value if isinstance(value, list | tuple) else ()
    return [plugin for each in inner for plugin in plugins_in(each)]


class MethodSpec(Named):
    """A method and its options."""

    PACKAGE = METHODS

    @property
    def method(self) -> "type[Distiller]":
        """Its class."""
        found: type[Distiller] = self._module.Method
        return found

    @property
    def requirements(self) -> "Requirements":
        """What it needs with these options."""
        return self.method.requirements(self.config)

    @property
    def distils(self) -> bool:
        """Whether it reads teachers while it trains; for another, a teacher is only what the student starts from."""
        return self.requirements.max_teachers != 0

    def check(self, student: Any, teachers: Sequence[Any]) -> None:
        """Refuse models, given their configurations, that it cannot work with; raises ValueError."""
        self.method.check(self.config, student, teachers)

    def check_running(self, teachers: Sequence[Any]) -> None:
        """Refuse teachers, given their configurations, that cannot be run as it runs them; raises ValueError."""
        self.method.check_running(self.config, teachers)

    def check_top_k(self, *, positions: str, temperature: float) -> None:
        """Refuse stored likeliest ids of teachers, kept at these positions and a temperature; raises ValueError."""
        self.method.check_top_k(self.config, positions=positions, temperature=temperature)

    def stored_layers(self, student: Any, teacher: Any) -> tuple[int, ...]:
        """Numbers k of the hidden states hs[k] whose CLS states it reads of a teacher, when those are stored."""
        return tuple(self.method.stored_layers(self.config, student, teacher))

    def prepare_batch(self, batch: "Batch") -> "Batch":
        """The batch with the columns that it draws for itself."""
        return self.method.prepare_batch(self.config, batch)

    def build(self, student: "nn.Module", teachers: "Sequence[nn.Module]" = (), **options: Any) -> "Distiller":
        """Student and teachers with the loss between them; ``options`` as ``requirements`` says."""
        return self.method(self.config, student, teachers, **options)


class TaskSpec(Named):
    """A task and its options."""

    PACKAGE = TASKS

    @classmethod
    def _names_in(cls, config: "DataclassInstance") -> list[tuple[str, str]]:
        return [(METRICS, name) for name in getattr(config, "metrics", None) or ()]

    @property
    def task(self) -> "type[TaskBase]":
        """Its class."""
        found: type[TaskBase] = self._module.Task
        return found

    @property
    def head(self) -> str:
        """Head that models need for it."""
        return self.task.HEAD

    @property
    def batch_dependent(self) -> bool:
        """Whether inputs or targets of a row depend on the other rows of its micro-batch."""
        return self.task.batch_dependent(self.config)

    @property
    def trains_on_prompts(self) -> bool:
        """Whether the loss of instructions is on all of their tokens, not on completions alone."""
        found: bool = getattr(self.config, "train_on_prompt", False)
        return found

    def higher_is_better(self, labels: Sequence[str] | None = None) -> dict[str, bool]:
        """The metrics that models can be compared by, its own first, and of each whether a higher value is better.

        ``labels`` name the corpus's classes, none for scores. While they are not known, all that there may be.
        """
        return self.task.higher_is_better(self.config, labels)

    def figures(self, labels: Sequence[str]) -> dict[str, bool | None]:
        """All figures that it may have of a corpus with these classes, and of each whether greater is better."""
        return self.task.figures(self.config, labels)

    def outputs(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Names of what a classifier's outputs stand for, given the names of the corpus's classes."""
        return self.task.outputs(self.config, tuple(labels))

    def build(self, encoding: "Encoding") -> "TaskBase":
        """The task on the rows of an encoding."""
        return self.task(self.config, encoding)


def names_from(value: Any) -> Any:
    """The name of a class, or a list or a map of names, with whole numbers as texts; anything else as it is."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list | tuple):
        return [names_from(one) for one in value]
    return {names_from(key): names_from(one) for key, one in value.items()} if isinstance(value, Mapping) else value


class EncodingSpec(Named):
    """A task's way to make rows of examples, and its options."""

    PACKAGE, ATTRIBUTE = TaskSpec.PACKAGE, "EncodeConfig"

    @classmethod
    def parse(cls, value: Any) -> Self:
        """As for any; of ``labels`` numbers are names too, and a word alone, such as ``auto``, is a list of it."""
        if isinstance(value, Mapping) and "labels" in value:
            labels = value["labels"]
            value = {**value, "labels": [labels] if isinstance(labels, str) else names_from(labels)}
        return super().parse(value)

    @property
    def task(self) -> "type[TaskBase]":
        """The task that reads such rows."""
        found: type[TaskBase] = self._module.Task
        return found

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes in the order of their ids; none where there are none."""
        return tuple(getattr(self.config, "labels", ()))

    @property
    def finds_labels(self) -> bool:
        """Whether the classes are those that the data have."""
        found: bool = getattr(self.config, "finds_labels", False)
        return found

    def with_labels_of(self, examples: Iterable[Mapping[str, Any]]) -> Self:
        """The encoding with the classes of these examples; raises ValueError for what are none."""
        labels = self._module.labels_of(examples)
        return dataclasses.replace(self, config=dataclasses.replace(self.config, labels=labels))

    @property
    def takes_instructions(self) -> bool:
        """Whether it can read prompts with completions, and messages."""
        return hasattr(self.config, "instructions")

    def with_instructions(self) -> Self:
        """The encoding of prompts with completions, or messages; raises ValueError for one of packed texts."""
        return dataclasses.replace(self, config=dataclasses.replace(self.config, instructions=True))

    @property
    def columns(self) -> "Mapping[str, Column]":
        """What each row has beside its ids."""
        found: Mapping[str, Column] = self._module.columns(self.config)
        return found

    @property
    def max_length(self) -> int | None:
        """The length of the longest row; None: the tokenizer's limit."""
        found: int | None = getattr(self.config, "max_length", None)
        return found

    def with_max_length(self, max_length: int) -> Self:
        """The same with another longest row."""
        return dataclasses.replace(self, config=dataclasses.replace(self.config, max_length=max_length))

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Raise ValueError for a tokenizer without a special token that the task needs."""
        self._module.check_tokenizer(tokenizer)

    def cut(self, examples: Sequence[Mapping[str, Any]], tokenizer: Any) -> list[Any]:
        """The rows of some examples; raises ValueError for one that has not what the task reads."""
        found: list[Any] = self._module.cut(examples, tokenizer, self.config)
        return found

    def drop_reasons(self, rows: Sequence[Any], tokenizer: Any) -> list[str | None]:
        """Why each row, given by its ids, is left out, None for one that is kept."""
        found: list[str | None] = self._module.drop_reasons(rows, tokenizer, self.config)
        return found


class SourceSpec(Named):
    """A source of examples and its options."""

    PACKAGE = SOURCES

    @property
    def is_listed_early(self) -> bool:
        """Whether ``items`` is cheap enough to be asked before a job runs."""
        return bool(self._module.is_listed_early(self.config))

    @property
    def has_instructions(self) -> bool:
        """Whether its options name columns of prompts with completions, or of messages."""
        return any(getattr(self.config, role, None) is not None for role in ("completion", "messages"))

    def items(self) -> list[Any]:
        """What one data task reads at a time, each an ``Item``."""
        return list(self._module.items(self.config))

    def read(self, item: Any) -> Iterable[Mapping[str, Any]]:
        """The examples of an item."""
        found: Iterable[Mapping[str, Any]] = self._module.read(self.config, item)
        return found
