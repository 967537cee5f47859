"""Parts of a job as Python objects: classes made of the dataclasses and sections that a job file's keys are checked by.

Such an object keeps what it is given. Its names are checked at once, its values where it enters a job, as a file's are.
"""

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any, ClassVar

from raydistill import discovery
from raydistill.environment import missing_package
from raydistill.user_error import UserError

EXAMPLE = ">>>"
LATER = {"raydistill.later": True}
"""Metadata of a field of options that came later: at its default it is not written, so that hashes stay."""
_TASK_CONFIGS = ("Config", "EncodeConfig")
"""What a task's module has: options of the task and those of its encoding; other modules have the first alone."""
_CHECKS = """\
Shapes and units: as the options say, otherwise plain words and numbers. Raises UserError, a ValueError of one line, for
an option that there is not; values are checked when the object enters a job."""


def unwritten(config: Any) -> set[str]:
    """Names of the fields of some options that are not written: those of ``LATER`` at their defaults."""
    return {
        field.name
        for field in dataclasses.fields(config)
        if LATER.items() <= field.metadata.items() and getattr(config, field.name) == field.default
    }


class Options:
    """Options of one part of a job; ``as_data()`` is what stands in a job file."""

    NAMED: ClassVar[Mapping[str, str]] = {}
    """The name that picks the part, where it is picked by one."""
    __signature__: ClassVar[inspect.Signature]

    def __init__(self, *values: Any, **options: Any) -> None:
        self.options = bound(self.__signature__, values, options)

    def as_data(self) -> dict[str, Any]:
        """Name and given options; their values stay as they are."""
        return {**self.NAMED, **self.options}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.options.items())})"


def bound(signature: inspect.Signature, values: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Values by name; raises UserError for an unknown name, for a value without a name, and for one given twice."""
    for name in options:
        if name not in signature.parameters:
            raise UserError(discovery.unknown_choice("option", name, list(signature.parameters)))
    try:
        return dict(signature.bind_partial(*values, **options).arguments)
    except TypeError as error:
        raise UserError(f"{error}; give options by their names: {', '.join(signature.parameters)}") from None


def signature_of(*configs: Any, leads: bool = True) -> inspect.Signature:
    """The fields of dataclasses or sections as parameters, see ``arranged``."""
    fields: dict[str, inspect.Parameter] = {}
    for config in configs:
        written = _written(config)
        for name, field in inspect.signature(config).parameters.items():
            shown = field.default if field.default is field.empty else _Shown(written[name][1])
            fields[name] = field.replace(annotation=written[name][0], default=shown)
    return arranged(list(fields.values()), leads=leads)


def arranged(fields: Sequence[inspect.Parameter], *, leads: bool = True) -> inspect.Signature:
    """Parameters as a signature.

    The first, and further ones that are required while it is, are positional if ``leads``; all others go by name.
    """
    is_required = [field.default is inspect.Parameter.empty for field in fields]
    positional = [
        leads and (number == 0 or (is_required[0] and required)) for number, required in enumerate(is_required)
    ]
    placed = [
        field.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD if first else inspect.Parameter.KEYWORD_ONLY)
        for field, first in zip(fields, positional, strict=True)
    ]
    return inspect.Signature(sorted(placed, key=lambda field: field.kind))


def options_class(
    name: str, signature: inspect.Signature, text: str, *, module: str, named: Mapping[str, str] | None = None
) -> type[Options]:
    """A class of this name whose options are the signature's parameters."""
    content = {"__signature__": signature, "__doc__": text, "__module__": module, "NAMED": named or {}}
    return type(name, (Options,), content)


@cache
def public_classes(package: str) -> dict[str, str]:
    """Names of a package's modules by those of their public classes."""
    return {discovery.class_name(name): name for name in discovery.names(package)}


def public_name(package: str, name: str) -> Any:
    """What a package such as ``raydistill.tasks`` offers under a name, ``__all__`` included; raises AttributeError."""
    if name == "__all__":
        return list(public_classes(package))
    if not name[:1].isupper() or name not in public_classes(package):
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    with named_if_missing(f"raydistill.{package.rpartition('.')[2]}.{name}"):
        return _class_of(package, name)


@cache
def _class_of(package: str, name: str) -> type[Options]:
    named = public_classes(package)[name]
    module = discovery.load(package, named)
    configs = [getattr(module, config) for config in _TASK_CONFIGS if hasattr(module, config)]
    # A task's options and those of its encoding are told apart by where it stands in a job.
    signature = signature_of(*configs, leads=len(configs) == 1)
    text = _documentation(module, configs, f"rd.{package.rpartition('.')[2]}.{name}", named)
    return options_class(name, signature, text, module=package, named={"name": named})


def _documentation(module: ModuleType, configs: Sequence[Any], public: str, named: str) -> str:
    example = f"{EXAMPLE} {public}().as_data()\n{{'name': '{named}'}}"
    own, mark, shown = inspect.cleandoc(configs[0].__doc__ or "").partition(EXAMPLE)
    parts = [inspect.cleandoc(module.__doc__ or ""), own.strip(), _CHECKS, f"Source: ``{module.__name__}``."]
    for config in configs:
        kind = "Options of an encoding" if config.__name__ == "EncodeConfig" else "Options"
        parts.append(listed(kind, config))
    return "\n\n".join(part for part in (*parts, mark + shown or example) if part) + "\n"


def section_documentation(section: Any, public: str = "", *, names: Sequence[str] | None = None) -> str:
    """What a section says of itself, its errors and its options, by default all; with a public name an example."""
    about = inspect.cleandoc(section.__doc__ or "")
    source = f"Source: ``{section.__module__}.{section.__name__}``."
    example = f"{EXAMPLE} {public}().as_data()\n{{}}" if public else ""
    parts = [about, _CHECKS, source, listed("Options", section, names), example]
    return "\n\n".join(part for part in parts if part) + "\n"


def listed(heading: str, config: Any, names: Sequence[str] | None = None) -> str:
    """The options of a dataclass or section, those of these names, under a heading, nothing where there are none."""
    found = {name: (declared, meaning) for name, declared, meaning in options_of(config)}
    shown = [(name, *found[name]) for name in (found if names is None else names)]
    lines = [f"{name}: {declared}\n{textwrap.indent(meaning, '    ')}".rstrip() for name, declared, meaning in shown]
    return "\n".join([f"{heading}:\n", *lines]) if lines else ""


def options_of(config: Any) -> list[tuple[str, str, str]]:
    """Name, type and default as they are written, and meaning of each option of a dataclass or section."""
    written = _written(config)
    return [
        (name, f"{kind} = {default}" if default else kind, meaning)
        for name, (kind, default, meaning) in written.items()
    ]


def _written(config: Any) -> dict[str, tuple[str, str, str]]:
    """Type, default and meaning of each field as its class has them, the default of plain values as they are."""
    fields = inspect.signature(config).parameters
    found: dict[str, tuple[str, str, str]] = {}
    for owner in reversed(config.__mro__):
        if fields.keys() & getattr(owner, "__annotations__", {}).keys():
            found |= _written_in(owner)
    return {
        name: (found[name][0], repr(field.default) if _is_plain(field.default) else found[name][1], found[name][2])
        for name, field in fields.items()
    }


def _is_plain(default: Any) -> bool:
    return default is None or isinstance(default, str | int | float | tuple | list | dict)


def _written_in(owner: type) -> dict[str, tuple[str, str, str]]:
    """The same of the fields that one class declares, their meaning the string that stands under each."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, text in zip(definition.body, [*definition.body[1:], None], strict=True):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        default = "" if field.value is None else ast.unparse(field.value)
        meaning = ""
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            meaning = inspect.cleandoc(str(text.value.value))
        found[field.target.id] = (ast.unparse(field.annotation), default, meaning)
    return found


class _Shown:
    """A default in a signature, shown as it is written."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


@contextmanager
def named_if_missing(what: str) -> Iterator[None]:
    """Name the extra, in one line, where what is asked for needs a package that is not installed.

    Raises ImportError, as a name does that cannot be imported.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(missing_package(error, what)) from None
