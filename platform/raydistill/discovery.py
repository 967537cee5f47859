"""Finding methods, tasks, sources, metrics and stages: one file is one name, there is no registry to edit.

They are in the package's folders, in installed packages that have entry points for them, and in a job's plug-ins.
"""

import ast
import difflib
import importlib
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from types import ModuleType

from raydistill import plugins
from raydistill.plugins import Plugin
from raydistill.user_error import UserError

_ACRONYMS = ("kd", "vkd", "uhc", "dfa", "cfl", "clm", "glue", "mlm", "ner", "ptp", "qa")

_plugins: dict[tuple[str, str], Plugin] = {}
"""Those of the job that this process works on, by package and name."""


def names(package: str) -> list[str]:
    """The public module names of a package such as ``raydistill.methods``, sorted; imports nothing below it.

    Raises UserError where an installed package adds a name that is there already.
    """
    own = {name for of, name in _plugins if of == package}
    return sorted({*_built_in(package), *_installed(package), *own})


def use(found: Iterable[Plugin]) -> None:
    """Know these plug-ins, in place of those of another job; raises UserError for a name that is there already."""
    chosen: dict[tuple[str, str], Plugin] = {}
    for plugin in found:
        other = chosen.get((plugin.package, plugin.name)) or _installed(plugin.package).get(plugin.name)
        _check_new(plugin, other)
        chosen[plugin.package, plugin.name] = plugin
    _plugins.clear()
    _plugins.update(chosen)


def arrived(found: Iterable[Plugin]) -> None:
    """Know plug-ins that came from another process, which has checked them."""
    _plugins.update({(plugin.package, plugin.name): plugin for plugin in found})


def plugin(package: str, name: str) -> Plugin | None:
    """The plug-in that a name stands for; None for what comes with the package, or for no such name."""
    return _plugins.get((package, name)) or _installed(package).get(name)


def summary(package: str, name: str) -> str:
    """First line of a module's docstring, read without importing the module."""
    found = plugin(package, name)
    path = files("raydistill").joinpath(*package.split(".")[1:], f"{name}.py")
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8") if found is None else found.source)) or ""
    return docstring.splitlines()[0] if docstring else ""


def class_name(name: str) -> str:
    """The public class of a module's name: ``PatientKD`` for ``patient_kd``."""
    return "".join(word.upper() if word in _ACRONYMS else word.capitalize() for word in name.split("_"))


def load(package: str, name: str, *, key: str = "name") -> ModuleType:
    """Import module ``name`` of ``package``.

    Raises ValueError naming ``key``, the value and the choices when there is no such module.
    """
    choices = names(package)
    if name not in choices:
        raise UserError(unknown_choice(key, name, choices))
    found = plugin(package, name)
    return importlib.import_module(f"{package}.{name}") if found is None else found.load()


def unknown_choice(key: str, value: object, choices: list[str]) -> str:
    """One line for a value that is none of the choices, with the closest one offered."""
    close = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{key} is {value!r}; {hint}Choices: {', '.join(choices)}"


def _built_in(package: str) -> list[str]:
    root = importlib.import_module("raydistill").__name__
    folder = files(root).joinpath(*package.split(".")[1:])
    found = (entry.name for entry in folder.iterdir())
    return [name[:-3] for name in found if name.endswith(".py") and not name.startswith("_")]


@cache
def _installed(package: str) -> dict[str, Plugin]:
    found = dict(plugins.installed(package))
    for each in found.values():
        _check_new(each, None)
    return found


def _check_new(plugin: Plugin, other: Plugin | None) -> None:
    if other is None and plugin.name not in _built_in(plugin.package):
        return
    kind = plugin.package.rpartition(".")[2].removesuffix("s")
    holder = "raydistill itself" if other is None else other.place
    raise UserError(f"{plugin.place} is a {kind} named {plugin.name}, a name that {holder} has already; rename it")
