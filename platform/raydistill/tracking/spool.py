"""Records on disk, in order, with a note of how far they were delivered."""

import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from raydistill.json_file import write_json

RECORDS = "records.jsonl"
REJECTED = "rejected.jsonl"
_DELIVERED = "delivered.json"
_LOCK = "lock"


@dataclass(frozen=True)
class Entry:
    """A record, its sequence number (from 1) and where it ends in the file."""

    sequence: int
    record: dict[str, Any]
    end: int


class Spool:
    """An append-only file of JSON records that survives the process which writes it.

    One process at a time: opening waits ``lock_timeout_s`` for another to end, then raises TimeoutError.
    """

    def __init__(self, folder: Path, *, lock_timeout_s: float = 30.0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._lock = _locked(folder / _LOCK, lock_timeout_s)
        self.delivered, start = _read_delivered(folder / _DELIVERED)
        self._file = (folder / RECORDS).open("ab")
        self._cut_torn_line()
        self.undelivered = self._read(start if start <= self._file.tell() else 0)
        """What an earlier process left, in order; not updated by later calls."""
        self._next = self.delivered + len(self.undelivered) + 1

    def append(self, record: dict[str, Any]) -> Entry:
        """Write a record and flush it to the operating system."""
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()
        entry = Entry(self._next, record, self._file.tell())
        self._next += 1
        return entry

    def mark_delivered(self, entry: Entry) -> None:
        """Note that this record and all before it need not be sent again."""
        self.delivered = entry.sequence
        write_json(self.folder / _DELIVERED, {"sequence": entry.sequence, "end": entry.end})

    def reject(self, entry: Entry, reason: str) -> None:
        """Keep a record that can never be delivered in a file of its own, with the reason."""
        with (self.folder / REJECTED).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"sequence": entry.sequence, "reason": reason, "record": entry.record}) + "\n")

    def close(self) -> None:
        """Close the files and let another process open the spool."""
        self._file.close()
        self._lock.close()

    def _cut_torn_line(self) -> None:
        """Drop the last line if a crash left it unfinished: its caller never learnt that it was written."""
        content = (self.folder / RECORDS).read_bytes()
        self._file.truncate(content.rfind(b"\n") + 1)
        self._file.seek(0, os.SEEK_END)

    def _read(self, start: int) -> list[Entry]:
        entries: list[Entry] = []
        with (self.folder / RECORDS).open("rb") as file:
            file.seek(start)
            for sequence, line in enumerate(iter(file.readline, b""), start=self.delivered + 1):
                entries.append(Entry(sequence, json.loads(line), file.tell()))
        return entries


def _read_delivered(path: Path) -> tuple[int, int]:
    if not path.is_file():
        return 0, 0
    note = json.loads(path.read_text(encoding="utf-8"))
    return note["sequence"], note["end"]


def _locked(path: Path, timeout_s: float) -> BinaryIO:
    file = path.open("wb")
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() > deadline:
                file.close()
                raise TimeoutError(f"another run of this job writes to {path.parent}; wait for it or end it") from None
            time.sleep(0.2)
