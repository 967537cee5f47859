"""``raydistill new``: a method, task or source of one's own from a template, with its test."""

import re
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from raydistill import discovery
from raydistill.commands.reporting import DebugOption, reported
from raydistill.plugins import METHODS, SOURCES, TASKS
from raydistill.user_error import UserError

_PACKAGES = {"method": METHODS, "task": TASKS, "source": SOURCES}
_NAME = re.compile(r"[a-z][a-z0-9_]*")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Its name in jobs: letters a to z, digits and _.")]

app = typer.Typer(help="Write a file to begin with.", no_args_is_help=True)


@app.command("method")
def method(name: NameArgument, debug: DebugOption = False) -> None:
    """Write a method in NAME.py and its contract tests in test_NAME.py, here.

    \b
    Example:
      raydistill new method my_method
    """
    _write("method", name, debug=debug)


@app.command("task")
def task(name: NameArgument, debug: DebugOption = False) -> None:
    """Write a task in NAME.py and its tests in test_NAME.py, here.

    \b
    Example:
      raydistill new task my_task
    """
    _write("task", name, debug=debug)


@app.command("source")
def source(name: NameArgument, debug: DebugOption = False) -> None:
    """Write a source of examples in NAME.py and its tests in test_NAME.py, here.

    \b
    Example:
      raydistill new source my_source
    """
    _write("source", name, debug=debug)


def _write(kind: str, name: str, *, debug: bool) -> None:
    with reported(debug=debug):
        if not _NAME.fullmatch(name):
            raise UserError(f"the name is {name!r}; use letters a to z, digits and _, a letter first")
        if name in discovery.names(_PACKAGES[kind]):
            raise UserError(f"a {kind} of the name {name} is there already; give another name")
        targets = {Path(f"{name}.py"): kind, Path(f"test_{name}.py"): f"{kind}_test"}
        for path in targets:
            if path.exists():
                raise UserError(f"{path} exists; give another name or remove it")
        for path, template in targets.items():
            text = files("raydistill").joinpath("commands", "_templates", f"{template}.txt").read_text(encoding="utf-8")
            path.write_text(text.format(name=name, title=name.replace("_", " ").capitalize()), encoding="utf-8")
    typer.echo(f"wrote {name}.py and test_{name}.py; next: pytest test_{name}.py, and in a job: plugins: [{name}.py]")
