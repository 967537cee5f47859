"""Plug-ins: a method, task, source or metric in somebody's own file, or in a module that is installed.

One file is one of them and has its name, as below the package. A file travels by its content: whatever refers to it in
another process brings it along. A module is imported there, too.
"""

import hashlib
import importlib
import importlib.util
import linecache
import re
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from raydistill.user_error import UserError

METHODS, TASKS, SOURCES, METRICS = (
    "raydistill.methods",
    "raydistill.tasks",
    "raydistill.data.sources",
    "raydistill.metrics",
)
GROUPS = {METHODS: "raydistill.methods", TASKS: "raydistill.tasks", SOURCES: "raydistill.sources", METRICS: METRICS}
"""The group of entry points that adds to a package."""
_CONTENTS = {
    METHODS: ("Method", "Config"),
    TASKS: ("Task", "Config", "EncodeConfig", "columns", "cut", "drop_reasons", "check_tokenizer"),
    SOURCES: ("read", "items", "Config", "is_listed_early"),
    METRICS: ("metric", "OF", "HIGHER_IS_BETTER"),
}
"""What a module of each kind has; the first tells which kind it is."""
_FILE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Plugin:
    """One plug-in."""

    package: str
    """The package that it adds to, such as ``raydistill.methods``."""
    name: str
    place: str = field(compare=False)
    """The file or module, for messages."""
    text: str = field(default="", repr=False)
    """The content of a file; empty for a module."""

    @property
    def is_file(self) -> bool:
        """Whether it travels by its content."""
        return bool(self.text)

    @property
    def digest(self) -> str:
        """Hash of its content: the file, or the module's; of a module that is a folder, all Python files in it."""
        content = [self.text] if self.is_file else [path.read_text(encoding="utf-8") for path in _files(self.place)]
        return hashlib.sha256("\0".join(content).encode()).hexdigest()[:16]

    @property
    def source(self) -> str:
        """The text of the file or of the module itself."""
        return self.text if self.is_file else _files(self.place)[0].read_text(encoding="utf-8")

    def load(self) -> ModuleType:
        """The module; raises UserError with file and line where it cannot be imported, or lacks what its kind has."""
        module = _loaded(self.name, self.text, self.place) if self.is_file else _imported(self.place)
        missing = [name for name in _CONTENTS[self.package] if not hasattr(module, name)]
        if missing:
            raise UserError(f"{self.place} has no {missing[0]}; a {_kind(self.package)} needs {_listed(self.package)}")
        return module


def of_file(place: str, text: str) -> Plugin:
    """The plug-in of a file's content, whose name is the file's; raises UserError as ``load`` does."""
    name = Path(place).name.removesuffix(".py")
    if not _FILE_NAME.fullmatch(name):
        raise UserError(
            f"{place} is not a name of a plug-in; use letters, digits and _ before .py, starting with a letter"
        )
    if not text.strip():
        raise UserError(f"{place} is empty; write a method, task, source or metric")
    return _of_module(_loaded(name, text, place), name, place, text)


def of_module(place: str) -> Plugin:
    """The plug-in of a module that is installed, named as its last part; raises UserError as ``load`` does."""
    return _of_module(_imported(place), place.rpartition(".")[2], place, "")


@cache
def installed(package: str) -> Mapping[str, Plugin]:
    """The plug-ins that installed packages add to a package by entry points, by name; imports none of them."""
    found = entry_points(group=GROUPS[package]) if package in GROUPS else ()
    return {entry.name: Plugin(package, entry.name, entry.module) for entry in found}


def _of_module(module: ModuleType, name: str, place: str, text: str) -> Plugin:
    kinds = [package for package, (mark, *_) in _CONTENTS.items() if hasattr(module, mark)]
    if len(kinds) != 1:
        each = "; ".join(f"a {_kind(package)} {_listed(package)}" for package in _CONTENTS)
        what = "several kinds of plug-in at once" if kinds else "not a plug-in"
        raise UserError(f"{place} is {what}; one has: {each}")
    found = Plugin(kinds[0], name, place, text)
    found.load()
    return found


def _kind(package: str) -> str:
    return package.rpartition(".")[2].removesuffix("s")


def _listed(package: str) -> str:
    return ", ".join(_CONTENTS[package])


def _loaded(name: str, text: str, place: str) -> ModuleType:
    """The module of a file's content, made once in a process for each content."""
    # Flat, because pickle imports the parts of a dotted name.
    module_name = f"raydistill_plugin_{name}_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    # Tracebacks and readers of docstrings find the text so where the file is not, and not that of a later version.
    linecache.cache[place] = (len(text), None, text.splitlines(keepends=True), place)
    if module_name in sys.modules:
        return sys.modules[module_name]
    module = ModuleType(module_name)
    module.__file__ = place
    sys.modules[module_name] = module
    try:
        exec(compile(text, place, "exec"), module.__dict__)
    except Exception as error:
        del sys.modules[module_name]
        raise _refusal(place, place, error) from error
    return module


def _imported(place: str) -> ModuleType:
    file = place
    try:
        file = str(_files(place)[0])
        return importlib.import_module(place)
    except Exception as error:
        if isinstance(error, UserError):
            raise
        raise _refusal(place, file, error) from error


def _files(place: str) -> list[Path]:
    """The file of a module, or all of a folder's, its own first; raises UserError where there is no such module."""
    try:
        spec = importlib.util.find_spec(place)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.has_location or spec.origin is None:
        raise UserError(f"{place} is not a module that can be imported; install it, or name a file that ends in .py")
    origin = Path(spec.origin)
    return [origin, *sorted(origin.parent.rglob("*.py"))] if spec.submodule_search_locations else [origin]


def _refusal(place: str, file: str, error: Exception) -> UserError:
    """One line with file and line: where the syntax is wrong, else the last line of the file that ran."""
    if isinstance(error, SyntaxError):
        where, number, text = error.filename or file, error.lineno, error.msg
    else:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        where, number, text = file, frames[-1].lineno if frames else None, str(error)
    line = f", line {number}" if number else ""
    kind = type(error).__name__
    return UserError(f"{place if where == file else where}{line}: {kind}: {text}; correct the plug-in there")
