"""Finding methods, tasks, sources and stages: one file is one name, there is no registry to edit."""

import ast
import difflib
import importlib
from importlib.resources import files
from types import ModuleType

from raydistill.user_error import UserError

_ACRONYMS = ("kd", "vkd", "uhc", "dfa", "cfl")


def names(package: str) -> list[str]:
    """The public module names of a package such as ``raydistill.methods``, sorted; imports nothing below it."""
    root = importlib.import_module("raydistill").__name__
    folder = files(root).joinpath(*package.split(".")[1:])
    found = (entry.name for entry in folder.iterdir())
    return sorted(name[:-3] for name in found if name.endswith(".py") and not name.startswith("_"))


def summary(package: str, name: str) -> str:
    """First line of a module's docstring, read without importing the module."""
    path = files("raydistill").joinpath(*package.split(".")[1:], f"{name}.py")
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
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
    return importlib.import_module(f"{package}.{name}")


def unknown_choice(key: str, value: object, choices: list[str]) -> str:
    """One line for a value that is none of the choices, with the closest one offered."""
    close = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{key} is {value!r}; {hint}Choices: {', '.join(choices)}"
