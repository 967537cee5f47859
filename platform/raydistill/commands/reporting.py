"""What commands share: options, exit statuses, and errors as lines on standard error."""

import json
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeGuard

import typer

from raydistill.environment import missing_package
from raydistill.job.storage_faults import storage_problem

DONE, FAILED, USER_CAN_FIX, INTERRUPTED = 0, 1, 2, 130

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document for machines.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Print the traceback of an unexpected error.")]


class Failure:
    """Where the traceback of an unexpected error goes, None for a temporary file."""

    folder: Path | None = None


@contextmanager
def reported(*, debug: bool, resume: str = "") -> Iterator[Failure]:
    """Turn whatever a command raises into lines on standard error and an exit status."""
    failure = Failure()
    try:
        yield failure
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        typer.echo(f"interrupted{'; ' + resume if resume else ''}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        raise
    except Exception as error:
        if _is_missing_package(error):
            typer.echo(missing_package(error), err=True)
            raise typer.Exit(USER_CAN_FIX) from None
        if _is_refusal(error):
            print_lines(getattr(error, "lines", None) or [str(error)] * bool(str(error)), err=True)
            raise typer.Exit(USER_CAN_FIX) from None
        problem = storage_problem(error, failure.folder)
        if problem is not None and not debug:
            typer.echo(problem, err=True)
            raise typer.Exit(USER_CAN_FIX) from None
        typer.echo(_unexpected(error, failure.folder, debug=debug), err=True)
        raise typer.Exit(FAILED) from None


def _is_missing_package(error: Exception) -> TypeGuard[ModuleNotFoundError]:
    """Whether one of our own modules imported a package that is not installed; a library's trouble is another one."""
    if not isinstance(error, ModuleNotFoundError) or (error.name or "raydistill").startswith("raydistill"):
        return False
    return _is_own(traceback.extract_tb(error.__traceback__))


def _is_own(frames: traceback.StackSummary) -> bool:
    """Whether the last frame that is no import machinery's is of raydistill."""
    last = [frame.filename for frame in frames if not frame.filename.startswith("<frozen ")][-1]
    return Path(last).is_relative_to(Path(__file__).parents[1])


def _is_refusal(error: Exception) -> bool:
    """Whether raydistill itself refused something here, unlike a library, or code in a worker."""
    if isinstance(error, ValueError) and hasattr(error, "lines"):
        return True
    return type(error) is ValueError and _is_own(traceback.extract_tb(error.__traceback__))


def _unexpected(error: Exception, folder: Path | None, *, debug: bool) -> str:
    text = "".join(traceback.format_exception(error))
    first_line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    summary = f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
    if debug:
        return f"{text}{summary}"
    for place in (folder, Path(tempfile.gettempdir())):
        try:
            if place is not None and place.is_dir():
                return f"{summary}; the traceback is in {_written(text, place)}"
        except OSError:
            # A disk that takes no traceback is often what it is about; the next place may take it.
            continue
    return f"{text}{summary}"


def _written(text: str, folder: Path) -> str:
    """The name of a new log in ``folder``; none is left when it cannot be written."""
    descriptor, name = tempfile.mkstemp(dir=folder, prefix="raydistill-error-", suffix=".log")
    try:
        with open(descriptor, "w", encoding="utf-8") as log:
            log.write(text)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
    return name


@contextmanager
def user_errors(source: str = "") -> Iterator[None]:
    """Everything here that is a ValueError is the user's to fix."""
    try:
        yield
    except ValueError as error:
        from raydistill.config.errors import UserError, error_lines

        raise UserError(error_lines(error, source=source)) from None


def emit(data: Any, *, json_text: bool, lines: list[str]) -> None:
    """Print the data as one JSON document, or the lines."""
    if json_text:
        typer.echo(json.dumps(data, indent=2))
    else:
        print_lines(lines)


def print_lines(lines: list[str], *, err: bool = False) -> None:
    """Print lines on standard output, or on standard error."""
    for line in lines:
        typer.echo(line, err=err)
