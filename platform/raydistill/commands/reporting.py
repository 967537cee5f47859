"""What commands share: options, exit statuses, and errors as lines on standard error."""

import json
import math
import os
import signal
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, TypeGuard

import typer

from raydistill.credentials import starred
from raydistill.environment import missing_package
from raydistill.job.storage_faults import storage_problem
from raydistill.user_error import brought, user_error_of

DONE, FAILED, USER_CAN_FIX, INTERRUPTED = 0, 1, 2, 130

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document for machines.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Print the traceback of an unexpected error.")]


class Failure:
    """Where the traceback of an unexpected error goes, None for a temporary file."""

    folder: Path | None = None


@contextmanager
def reported(*, debug: bool, resume: str = "") -> Iterator[Failure]:
    """Turn whatever a command raises into lines on standard error and an exit status.

    At the first Ctrl-C a command ends what it started, which takes seconds; at the second one its process ends.
    """
    failure = Failure()
    try:
        with _interruptible():
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
        refusal = user_error_of(error)
        if refusal is not None:
            print_lines(refusal.lines, err=True)
            raise typer.Exit(USER_CAN_FIX) from None
        problem = storage_problem(error, failure.folder)
        if problem is not None and not debug:
            typer.echo(problem, err=True)
            raise typer.Exit(USER_CAN_FIX) from None
        typer.echo(_unexpected(error, failure.folder, resume if _is_of_ray(error) else "", debug=debug), err=True)
        raise typer.Exit(FAILED) from None


@contextmanager
def _interruptible() -> Iterator[None]:
    """Have a second Ctrl-C end the process at once, in the main thread and where Ctrl-C is not ignored."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def at_first(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, at_second)
        _tell_terminal("stopping; Ctrl-C again leaves at once\n")
        signal.default_int_handler(number, frame)

    def at_second(number: int, frame: Any) -> None:
        # Ray's processes end with this one, as when it is killed. A bar has hidden the cursor.
        _tell_terminal("\x1b[?25h")
        os._exit(INTERRUPTED)

    signal.signal(signal.SIGINT, at_first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _tell_terminal(text: str) -> None:
    """To standard error where that is a terminal, past its buffer, which the interrupted code may be writing to."""
    with suppress(OSError):
        if os.isatty(2):
            os.write(2, text.encode())


def _is_missing_package(error: Exception) -> TypeGuard[ModuleNotFoundError]:
    """Whether one of our own modules imported a package that is not installed; a library's trouble is another one."""
    if not isinstance(error, ModuleNotFoundError) or (error.name or "raydistill").startswith("raydistill"):
        return False
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    importer = [file for file in files if not file.startswith("<frozen ")][-1]
    return Path(importer).is_relative_to(Path(__file__).parents[1])


def _is_of_ray(error: Exception) -> bool:
    """Whether a process that Ray ran is gone: nothing that it ran raised the error."""
    return type(next(brought(error))).__module__.startswith("ray.")


def _unexpected(error: Exception, folder: Path | None, resume: str, *, debug: bool) -> str:
    text = starred("".join(traceback.format_exception(error)))
    first_line = starred(next((line.strip() for line in str(error).splitlines() if line.strip()), ""))
    summary = f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
    if resume:
        summary += f"; a process of Ray was killed, as by a lack of memory, or its machine is gone; {resume}"
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


def told_if_lost(lost: str) -> None:
    """End with a failure where the tracking store will never have all that a command found."""
    if lost:
        typer.echo(f"everything ran, but {lost}", err=True)
        raise typer.Exit(FAILED)


def emit(data: Any, *, json_text: bool, lines: list[str]) -> None:
    """Print the data as one JSON document, or the lines."""
    if json_text:
        typer.echo(json.dumps(_finite(data), indent=2, allow_nan=False))
    else:
        print_lines(lines)


def _finite(data: Any) -> Any:
    """The same data with null for numbers that JSON does not have."""
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def print_lines(lines: list[str], *, err: bool = False) -> None:
    """Print lines on standard output, or on standard error."""
    for line in lines:
        typer.echo(line, err=err)
