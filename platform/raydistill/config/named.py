"""Sections that pick a module by name: ``method: {name: causal, temperature: 2}``."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, PlainSerializer, TypeAdapter, ValidationError, with_config

from raydistill import discovery
from raydistill.config.errors import choice_error, with_choices


@dataclass(frozen=True)
class NamedIn:
    """Marks a field whose value is a name of a module in ``package`` and that module's options."""

    package: str
    attribute: str = "Config"
    """The module's dataclass of options."""

    def config_type(self, name: str) -> type:
        """The dataclass of options of module ``name``; raises ValueError when there is none."""
        config_type: type = getattr(discovery.load(self.package, name), self.attribute)
        assert dataclasses.is_dataclass(config_type)
        return config_type


@dataclass(frozen=True)
class Named:
    """A module found by name and its validated options."""

    package: str
    name: str
    config: Any

    @property
    def module(self) -> ModuleType:
        """The module itself, imported."""
        return discovery.load(self.package, self.name)

    def dump(self) -> dict[str, Any]:
        """The section as plain data, every default written out."""
        return {"name": self.name, **TypeAdapter(type(self.config)).dump_python(self.config, mode="json")}


def parser(package: str, attribute: str = "Config") -> Callable[[Any], Named]:
    """A function from ``{"name": ..., **options}`` (or the bare name) to a ``Named``.

    It raises ValueError for what is no such section, an unknown name included, and pydantic's ValidationError
    for options that the module's ``attribute`` (a frozen dataclass) does not have or take.
    """
    kind = package.rpartition(".")[2].removesuffix("s")
    folder = NamedIn(package, attribute)

    def parse(value: Any) -> Named:
        if isinstance(value, Named):
            return value
        if not isinstance(value, str | dict):
            raise ValueError(f"write the name of a {kind}, or its name and options as {{name: ..., key: value}}")
        section = {"name": value} if isinstance(value, str) else dict(value)
        choices = discovery.names(package)
        if "name" not in section:
            raise ValueError(f"name is missing; choices: {', '.join(choices)}")
        name = section.pop("name")
        if name not in choices:
            raise choice_error(kind, "name", name, choices)
        config_type = folder.config_type(name)
        strict = with_config(ConfigDict(extra="forbid"))(config_type)
        try:
            return Named(package, name, TypeAdapter(strict).validate_python(section))
        except ValidationError as error:
            fields = [field.name for field in dataclasses.fields(config_type)]
            raise with_choices(error, fields, owner=f"{kind} {name}") from None

    return parse


def _field(package: str, attribute: str = "Config", *, optional: bool = False) -> Any:
    parse = parser(package, attribute)
    before = (lambda value: None if value is None else parse(value)) if optional else parse
    dump = PlainSerializer(lambda named: None if named is None else named.dump())
    return Annotated[Any, NamedIn(package, attribute), BeforeValidator(before), dump]


MethodField = _field("raydistill.methods")
TaskField = _field("raydistill.tasks")
EncodingField = _field("raydistill.tasks", "EncodeConfig")
SourceField = _field("raydistill.data.sources")
OptionalSourceField = _field("raydistill.data.sources", optional=True)
