"""How a case of a campaign ends: in a warm process, with what it printed, how long it took and where it wrote.

A campaign gives cases by number and a function that tries one; ``tried`` runs it in processes forked from one that has
imported everything, so that a case takes a fraction of a second. One that hangs is killed with its process.
"""

import io
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol, TextIO

import typer

from raydistill.commands.reporting import DONE, USER_CAN_FIX, reported

VALID, REFUSED = "valid", "refused"
FORBIDDEN = TRACEBACK, HANG, OUTSIDE = "traceback", "hang", "outside the storage"
CLASSES = (VALID, REFUSED, *FORBIDDEN)
HANG_S = 30.0
"""Of a case's own time: what it waits for a CPU that other programs have does not count."""
_MOST_BYTES = 16 * 2**30
"""Of one process's address space: a case that fills the memory ends with a MemoryError, which is a traceback."""
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PATHS_OF = {
    "os.mkdir": 1,
    "os.remove": 1,
    "os.rmdir": 1,
    "os.rename": 2,
    "os.link": 2,
    "os.symlink": 2,
    "os.truncate": 1,
    "shutil.rmtree": 1,
    "sqlite3.connect": 1,
}
"""Audited calls that change a file system, with the number of paths among their first arguments."""


@dataclass(frozen=True)
class Outcome:
    """How one case ended."""

    case: int
    what: str
    """What was tried, in a few words."""
    outcome: str
    seconds: float
    said: str
    """What it printed, the traceback that it wrote included; of a write outside, the paths."""


@dataclass(frozen=True)
class Place:
    """Folders of one process. A case runs in ``own``; what it may write is below ``storage`` and ``temporary``."""

    root: Path

    @property
    def own(self) -> Path:
        """The working folder and the home: nothing may change in it."""
        return self.root / "own"

    @property
    def storage(self) -> Path:
        """The storage that every case is given."""
        return self.root / "storage"

    @property
    def temporary(self) -> Path:
        """The folder of temporary files."""
        return self.root / "temporary"

    def clear(self) -> None:
        """Make the folders anew, as empty as each case finds them."""
        for folder in (self.own, self.storage, self.temporary):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)


class Attempt(Protocol):
    """How a campaign tries its cases."""

    def what(self, number: int) -> str:
        """What a case is, in a few words."""
        ...

    def __call__(self, number: int, place: Place) -> None:
        """Try a case in folders of its own; raises what the command would raise."""
        ...


class _Writes:
    """Paths that this process changed, as Python's audit events tell them."""

    def __init__(self) -> None:
        self.paths: list[str] | None = None
        sys.addaudithook(self._hear)

    def _hear(self, event: str, values: tuple[Any, ...]) -> None:
        if self.paths is None:
            return
        if event == "open" and isinstance(values[0], str | bytes) and self._is_write(*values):
            self.paths.append(os.path.abspath(os.fsdecode(values[0])))
        number = _PATHS_OF.get(event, 0)
        # The last value is that of dir_fd, where a call has one.
        folder = f"/proc/self/fd/{values[-1]}" if number and isinstance(values[-1], int) and values[-1] >= 0 else "."
        for value in values[:number]:
            if isinstance(value, str | bytes | os.PathLike):
                self.paths.append(os.path.join(os.path.realpath(folder), os.fsdecode(value)))

    @staticmethod
    def _is_write(path: str | bytes, mode: str | None, flags: int) -> bool:
        # In a folder a file without a name is opened so, which leaves nothing.
        return bool(flags & _WRITE_FLAGS) and not os.path.isdir(path)


def tried(cases: Iterable[int], attempt: Attempt, *, workers: int, caches: Iterable[Path] = ()) -> Iterator[Outcome]:
    """The outcome of each case, in the order in which they end; ``caches`` may be written to as well."""
    numbers, root = iter(cases), Path(tempfile.mkdtemp(prefix="campaign-"))
    running = [_Process(root / str(number), attempt, list(caches)) for number in range(workers)]
    try:
        busy = [process for process in running if process.take(numbers)]
        while busy:
            ready = wait([process.pipe for process in busy], timeout=0.2)
            for process in list(busy):
                outcome = process.outcome(is_ready=process.pipe in ready)
                if outcome is not None:
                    yield outcome
                    if not process.take(numbers):
                        busy.remove(process)
    finally:
        for process in running:
            process.end()
        shutil.rmtree(root, ignore_errors=True)


class _Process:
    """A forked process that tries one case after the other, and another in its place when it hangs or dies."""

    def __init__(self, folder: Path, attempt: Attempt, caches: list[Path]) -> None:
        self._arguments = (Place(folder), attempt, caches)
        self._case, self._began = -1, 0.0
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, *self._arguments), daemon=True)
        self._process.start()
        other.close()

    def take(self, numbers: Iterator[int]) -> bool:
        """Begin the next case, if there is one."""
        number = next(numbers, None)
        if number is None:
            return False
        self._case, self._began = number, _own_time(self._process.pid)
        self.pipe.send(number)
        return True

    def outcome(self, *, is_ready: bool) -> Outcome | None:
        """How the case ended, None while it runs."""
        seconds = _own_time(self._process.pid) - self._began
        if is_ready:
            try:
                found: Outcome = self.pipe.recv()
                return found
            except EOFError:
                self._process.join()
                return self._again(TRACEBACK, seconds, f"the process died with {self._process.exitcode}")
        return self._again(HANG, seconds, "still running") if seconds > HANG_S else None

    def _again(self, outcome: str, seconds: float, said: str) -> Outcome:
        self.end()
        self._start()
        return Outcome(self._case, self._arguments[1].what(self._case), outcome, seconds, said)

    def end(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _own_time(process: int | None) -> float:
    """Seconds of the clock less those that a process, by default this one, was ready to run and had no CPU."""
    try:
        waited = Path(f"/proc/{process or 'self'}/schedstat").read_text(encoding="ascii").split()[1]
    except OSError:
        # The process has just died, or this is no Linux.
        waited = "0"
    return time.monotonic() - int(waited) / 1e9


def _serve(pipe: Connection, place: Place, attempt: Attempt, caches: list[Path]) -> None:
    # Of whoever started it, not of a campaign that tells its counts.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    place.clear()
    os.environ |= {"HOME": str(place.own), "TMPDIR": str(place.temporary)}
    tempfile.tempdir = str(place.temporary)
    sys.dont_write_bytecode = True
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
    writes = _Writes()
    allowed = [place.storage, place.temporary, Path("/dev/null"), *caches]
    while True:
        number = pipe.recv()
        place.clear()
        os.chdir(place.own)
        pipe.send(_outcome(number, attempt, place, writes, [str(each) for each in allowed]))


def _outcome(number: int, attempt: Attempt, place: Place, writes: _Writes, allowed: list[str]) -> Outcome:
    began, out, what = _own_time(None), io.StringIO(), attempt.what(number)
    status = DONE
    writes.paths = []
    try:
        with redirect_stdout(out), redirect_stderr(out), reported(debug=False):
            attempt(number, place)
    except typer.Exit as ended:
        status = ended.exit_code
    except BaseException as error:
        out.write(f"{type(error).__name__}: {error}")
        status = -1
    changed, writes.paths = writes.paths, None
    seconds, said = _own_time(None) - began, _with_traceback(out.getvalue())
    strangers = [
        path
        for path in map(os.path.normpath, changed)
        if not any(path == each or path.startswith(f"{each}/") for each in allowed)
    ]
    # What a library wrote past Python's calls.
    strangers += [str(path) for path in place.own.rglob("*")]
    if strangers:
        return Outcome(number, what, OUTSIDE, seconds, ", ".join(sorted(set(strangers))))
    return Outcome(number, what, _class(status, said), seconds, said)


def _class(status: int, said: str) -> str:
    lines = said.splitlines()
    if "Traceback (most recent call last)" in said or status not in (DONE, USER_CAN_FIX):
        return TRACEBACK
    if status == DONE:
        return VALID
    # A refusal without a word helps nobody.
    return REFUSED if any(map(str.strip, lines)) else TRACEBACK


def _with_traceback(said: str) -> str:
    found = re.search(r"the traceback is in (\S+)", said)
    return said if found is None else f"{said}\n{Path(found[1]).read_text(encoding='utf-8', errors='replace')}"


def told(campaign: str, outcomes: Iterable[Outcome], *, seed: int, every: bool) -> int:
    """Print one JSON line a class of outcome with its count, and each forbidden case, or ``every`` one.

    Interrupted, it tells what was tried so far. Returns the exit status.
    """
    counts, longest = Counter[str](), dict.fromkeys(CLASSES, 0.0)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        for one in outcomes:
            counts[one.outcome] += 1
            longest[one.outcome] = max(longest[one.outcome], one.seconds)
            if every or one.outcome in FORBIDDEN:
                _print(sys.stderr, {"campaign": campaign, **asdict(one)})
    for name in CLASSES:
        line = {"campaign": campaign, "outcome": name, "count": counts[name], "longest_s": round(longest[name], 1)}
        _print(sys.stdout, {**line, "allowed": name not in FORBIDDEN, "seed": seed, "cases": counts.total()})
    return int(any(counts[name] for name in FORBIDDEN))


def _print(stream: TextIO, line: Mapping[str, Any]) -> None:
    stream.write(f"{json.dumps(line)}\n")
    stream.flush()
