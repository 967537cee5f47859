"""``raydistill new``: a job for a file of one's own; a method, task or source from a template, with its test."""

import re
import sys
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from raydistill import discovery
from raydistill.commands.reporting import DebugOption, reported
from raydistill.environment import keep_quiet
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


@app.command("job")
def job(
    name: NameArgument,
    data: Annotated[str, typer.Option(help="A file of texts: CSV, TSV, JSON lines or Parquet.")] = "",
    text: Annotated[str, typer.Option(help="Its column of texts.")] = "",
    label: Annotated[str, typer.Option(help="Its column of labels; none for a language model.")] = "",
    teacher: Annotated[str, typer.Option(help="The teacher: a checkpoint's folder, or a Hub name.")] = "",
    layers: Annotated[str, typer.Option(help="The student's blocks: how many, or the teacher's 0,4,8.")] = "",
    fine_tune: Annotated[bool, typer.Option(help="Whether the teacher has yet to learn the labels.")] = True,
    debug: DebugOption = False,
) -> None:
    """Write a job in NAME.yaml, here; options that are not given are asked for.

    \b
    Example:
      raydistill new job reviews --data reviews.csv --text review --label stars --teacher my/bert --layers 3
    """
    with reported(debug=debug):
        _check_name(name)
        path = Path(f"{name}.yaml")
        if path.exists():
            raise UserError(f"{path} exists; give another name or remove it")
        given = {
            "data": data or _asked("data", "File of texts"),
            "text": text or _asked("text", "Column of texts"),
            "label": label or _asked("label", "Column of labels (empty for a language model)", default=""),
            "teacher": teacher or _asked("teacher", "Teacher (a checkpoint's folder, or a hub name)"),
            "layers": layers or _asked("layers", "Blocks of the student (3, or 0,4,8)"),
        }
        keep_quiet()
        from raydistill.job.first_job import job_text

        path.write_text(job_text(name, **given, fine_tune=fine_tune), encoding="utf-8")
    typer.echo(f"wrote {path}; next: raydistill run {path} --dry-run")


def _asked(option: str, question: str, default: str | None = None) -> str:
    """The answer at a terminal; elsewhere the default, and a refusal where there is none."""
    if sys.stdin.isatty():
        answer: str = typer.prompt(question, default=default, show_default=False)
        return answer
    if default is None:
        raise UserError(f"--{option} is missing; there is no terminal to ask at")
    return default


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UserError(f"the name is {name!r}; use letters a to z, digits and _, starting with a letter")


def _write(kind: str, name: str, *, debug: bool) -> None:
    with reported(debug=debug):
        _check_name(name)
        if name in discovery.names(_PACKAGES[kind]):
            raise UserError(f"there is a {kind} named {name} already; give another name")
        targets = {Path(f"{name}.py"): kind, Path(f"test_{name}.py"): f"{kind}_test"}
        for path in targets:
            if path.exists():
                raise UserError(f"{path} exists; give another name or remove it")
        for path, template in targets.items():
            text = files("raydistill").joinpath("commands", "_templates", f"{template}.txt").read_text(encoding="utf-8")
            path.write_text(text.format(name=name, title=name.replace("_", " ").capitalize()), encoding="utf-8")
    typer.echo(f"wrote {name}.py and test_{name}.py; next: pytest test_{name}.py, and in a job: plugins: [{name}.py]")
