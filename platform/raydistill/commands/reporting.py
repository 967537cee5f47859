"""What commands share: options, exit statuses, and errors as lines on standard error."""

import json
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from raydistill.job.storage_faults import storage_problem
from raydistill.user_error import user_error_of

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
        refusal = user_error_of(error)
        if refusal is not None:
            print_lines(refusal.lines, err=True)
            raise typer.Exit(USER_CAN_FIX) from None
        problem = storage_problem(error, failure.folder)
        if problem is not None and not debug:
            typer.echo(problem, err=True)
            raise typer.Exit(USER_CAN_FIX) from None
        typer.echo(_unexpected(error, failure.folder, debug=debug), err=True)
        raise typer.Exit(FAILED) from None


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
