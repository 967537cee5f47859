"""Records on disk, in order, with a note of how far they were delivered."""

import itertools
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydistill.atomic import write_json
from raydistill.locks import HeldError, Lock, hold

logger = logging.getLogger(__name__)

REJECTED = "rejected.jsonl"
DELIVERED = "delivered.json"
_LOCK = "lock"
_SEGMENT = "records-{:012d}.jsonl"
_SEGMENTS = "records-*.jsonl"
_SEGMENT_BYTES = 4 << 20
_MAX_ANSWERS = 100


class SpoolInUseError(TimeoutError):
    """Another process holds the spool."""


@dataclass(frozen=True)
class Entry:
    """A record and its sequence number, from 1."""

    sequence: int
    record: dict[str, Any]


class Spool:
    """An append-only queue of JSON records on disk that survives the process which writes it.

    Records lie in segments, each named after the sequence number of its first record; a segment is removed once
    all its records are delivered and a later one exists, so numbers go on and nothing is ever rewritten. While the
    disk takes nothing, records wait in memory and follow, in order, when it does.
    One process at a time: opening waits ``lock_timeout_s`` for another to end, then raises SpoolInUseError.
    """

    def __init__(self, folder: Path, *, lock_timeout_s: float = 30.0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._lock = _locked(folder / _LOCK, lock_timeout_s)
        note = _read_note(folder / DELIVERED)
        self.delivered: int = note["sequence"]
        self.answers: dict[int, Any] = {int(sequence): answer for sequence, answer in note["answers"].items()}
        """What the store answered to the latest records that somebody asks about, by sequence number."""
        self.undelivered = [entry for entry in _entries(folder) if entry.sequence > self.delivered]
        """What an earlier process left, in order; not updated by later calls."""
        last = self.undelivered[-1].sequence if self.undelivered else self.delivered
        self._next = max([last + 1, *(_first(path) for path in _segments(folder))])
        self._unwritten = b""
        self._file, self._size = self._open_segment(), 0
        self._remove_delivered()

    @property
    def last(self) -> int:
        """Sequence number of the latest record."""
        return self._next - 1

    def append(self, record: dict[str, Any]) -> Entry:
        """Write a record and hand it to the operating system, or keep it in memory while the disk is full."""
        entry = Entry(self._next, record)
        if self._size >= _SEGMENT_BYTES and not self._unwritten:
            self._start_segment()
        self._next += 1
        was_waiting = bool(self._unwritten)
        self._unwritten += json.dumps(record).encode() + b"\n"
        try:
            self._write()
        except OSError as error:
            if not was_waiting:
                logger.warning("records of %s wait in memory: %s", self.folder, error)
        return entry

    def mark_delivered(self, entry: Entry, *, answer: Any = None) -> None:
        """Note that this record and all before it need not be sent again; ``answer`` is kept for a while."""
        self.delivered = entry.sequence
        if answer is not None:
            self.answers[entry.sequence] = answer
            self.answers = dict(list(self.answers.items())[-_MAX_ANSWERS:])
        write_json(self.folder / DELIVERED, {"sequence": entry.sequence, "answers": self.answers})
        if self.delivered + 1 == self._next and self._size >= _SEGMENT_BYTES and not self._unwritten:
            self._start_segment()
        self._remove_delivered()

    def reject(self, entry: Entry, reason: str) -> None:
        """Keep a record that can never be delivered in a file of its own, with the reason."""
        with (self.folder / REJECTED).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"sequence": entry.sequence, "reason": reason, "record": entry.record}) + "\n")

    def close(self) -> None:
        """Close the files, remove what is delivered and let another process open the spool."""
        if self.delivered + 1 == self._next and self._size:
            self._start_segment()
            self._remove_delivered()
        self._file.close()
        self._lock.release()

    def _write(self) -> None:
        # Unbuffered: what a full disk did not take is known to the byte and follows later.
        while self._unwritten:
            written = self._file.write(self._unwritten) or 0
            self._unwritten = self._unwritten[written:]
            self._size += written

    def _open_segment(self) -> Any:
        """An empty segment for the next record; all that can lie in it is a line that a crash left unfinished."""
        file = (self.folder / _SEGMENT.format(self._next)).open("ab", buffering=0)
        file.truncate(0)
        return file

    def _start_segment(self) -> None:
        try:
            file = self._open_segment()
        except OSError as error:
            logger.warning("the spool %s stays in one file: %s", self.folder, error)
            return
        self._file.close()
        self._file, self._size = file, 0

    def _remove_delivered(self) -> None:
        paths = _segments(self.folder)
        for path, following in itertools.pairwise(paths):
            if _first(following) > self.delivered + 1:
                return
            path.unlink(missing_ok=True)


def delivered_from(folder: Path) -> int:
    """Sequence number of the latest record of a spool that is delivered, 0 before the first; whoever has it open."""
    return int(_read_note(folder / DELIVERED)["sequence"])


def waiting_in(folder: Path) -> list[Entry]:
    """The records of a spool that are not delivered; whoever has it open."""
    while True:
        try:
            delivered = delivered_from(folder)
            return [entry for entry in _entries(folder) if entry.sequence > delivered]
        except FileNotFoundError:
            # Its owner removed meanwhile what is delivered.
            continue


def _entries(folder: Path) -> Iterator[Entry]:
    for path in _segments(folder):
        with path.open("rb") as file:
            for sequence, line in enumerate(file, start=_first(path)):
                # Without its end, a line is one that a crash cut: its caller never learnt that it was written.
                if line.endswith(b"\n"):
                    yield Entry(sequence, json.loads(line))


def _segments(folder: Path) -> list[Path]:
    return sorted(folder.glob(_SEGMENTS))


def _first(segment: Path) -> int:
    return int(segment.stem.rpartition("-")[2])


def is_spool(folder: Path) -> bool:
    """Whether records were ever kept in this folder."""
    return folder.is_dir() and any(folder.glob(_SEGMENTS))


def _read_note(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {"sequence": 0, "answers": {}}
    note: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return note


def _locked(path: Path, timeout_s: float) -> Lock:
    try:
        return hold(path, timeout_s=timeout_s)
    except HeldError as error:
        raise SpoolInUseError(
            f"another run of this job writes to {path.parent} ({error.holder}); wait for it or end it"
        ) from None
