"""Records from a spool to MLflow, in order; the tracker actor and ``raydistill track-sync`` share it."""

import logging
import threading
from collections import deque
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from raydistill.credentials import without_secrets
from raydistill.tracking.pages import note_experiment
from raydistill.tracking.spool import Entry, Spool
from raydistill.tracking.store import Store, write_store
from raydistill.tracking.writer import MlflowWriter

logger = logging.getLogger(__name__)

RUNS = "runs.json"
_MAX_RECORDS_AT_ONCE = 200
_ANSWERED = frozenset({"start_run", "register_model"})


@dataclass(frozen=True)
class Outcome:
    """How far a record came: delivered with a value, rejected with an error, or waiting, with the latest error."""

    done: bool
    value: Any = None
    error: str | None = None


class Delivery:
    """What waits in the spool of ``folder`` and its way to ``store``.

    A record that MLflow can never take (a metric of a run that was not started, say) goes to ``rejected.jsonl``
    with a warning; after any other failure it stays first in line. A record whose answer was lost is sent again:
    MLflow keeps equal metrics (name, value, step and time) of a run once, and the writer sees to the rest.
    One thread may append while another delivers; ``changed`` guards both and tells of new records.
    """

    def __init__(self, store: Store, folder: Path, *, lock_timeout_s: float = 30.0) -> None:
        self.store = store
        self.spool = Spool(folder, lock_timeout_s=lock_timeout_s)
        self.pending: deque[Entry] = deque(self.spool.undelivered)
        self.changed = threading.Condition()
        self.num_delivered = 0
        """Records that MLflow took since this began."""
        self.num_rejected = 0
        self.rejection = ""
        """Why the first of them was."""
        self.writer: MlflowWriter | None = None
        self._marked = True

    def remember_store(self) -> None:
        """Note in the spool where it goes, for a delivery without the job."""
        write_store(self.spool.folder, self.store)

    def append(self, record: dict[str, Any]) -> int:
        """Spool a record and return its sequence number."""
        with self.changed:
            entry = self.spool.append(record)
            self.pending.append(entry)
            self.changed.notify_all()
        return entry.sequence

    def outcome(self, sequence: int) -> Outcome:
        """How far the record with this number came."""
        with self.changed:
            answer = self.spool.answers.get(sequence)
            return Outcome(done=sequence <= self.spool.delivered, **(answer or {}))

    def open(self) -> MlflowWriter:
        """MLflow's client, opened when first needed; raises what MLflow raises."""
        if self.writer is None:
            self.writer = MlflowWriter(self.store, self.spool.folder / RUNS)
            note_experiment(self.spool.folder, self.writer.experiment_id)
        return self.writer

    def wait(self) -> None:
        """Wait for a record to send."""
        with self.changed:
            self.changed.wait_for(lambda: bool(self.pending))

    def send_next(self) -> None:
        """Send the first record that waits, and the metrics of the same run behind it; raises when it has to wait."""
        writer = self.open()
        with self.changed:
            entries = self._first_entries()
        self._send(writer, entries)

    def close(self) -> None:
        """Let another process deliver."""
        self.spool.close()

    def _first_entries(self) -> list[Entry]:
        entries = [self.pending[0]]
        first = entries[0].record
        if first["op"] != "log_metrics":
            return entries
        for entry in islice(self.pending, 1, _MAX_RECORDS_AT_ONCE):
            if (entry.record["op"], entry.record["key"]) != ("log_metrics", first["key"]):
                break
            entries.append(entry)
        return entries

    def _send(self, writer: MlflowWriter, entries: list[Entry]) -> None:
        value, error = None, None
        try:
            if len(entries) > 1:
                writer.deliver_metrics([entry.record for entry in entries])
            else:
                value = writer.deliver(entries[0].record)
        except Exception as failure:
            if not writer.is_permanent(failure):
                raise
            if len(entries) > 1:
                # One bad record must not take its neighbours with it.
                for entry in entries:
                    self._send(writer, [entry])
                return
            error = f"{type(failure).__name__}: {failure}"
        self._finish(entries, value, error)

    def _finish(self, entries: list[Entry], value: Any, error: str | None) -> None:
        last = entries[-1]
        if error is not None:
            self.spool.reject(last, error)
            logger.warning("MLflow cannot take record %d (%s): %s", last.sequence, last.record["op"], error)
        is_asked_for = error is not None or last.record["op"] in _ANSWERED
        with self.changed:
            self._mark(last, {"value": value, "error": error} if is_asked_for else None)
            for _ in entries:
                self.pending.popleft()
            self.num_rejected += error is not None
            self.rejection = self.rejection or error or ""
            self.num_delivered += len(entries) if error is None else 0

    def _mark(self, last: Entry, answer: dict[str, Any] | None) -> None:
        try:
            self.spool.mark_delivered(last, answer=answer)
            self._marked = True
        except OSError as failure:
            # It is delivered all the same; on a full disk the note follows with a later record.
            if self._marked:
                logger.warning("%s cannot note what is delivered: %s", self.spool.folder, failure)
            self._marked = False


def reason(error: BaseException, *, uri: str = "") -> str:
    """Why a store takes nothing, in a few words: the system's own ("Connection refused") when there is one."""
    deepest = ""
    following: BaseException | None = error
    while following is not None:
        if isinstance(following, OSError):
            deepest = following.strerror or str(following)
        following = following.__cause__ or following.__context__
    first_line = next(iter(str(error).strip().splitlines()), "")
    text = deepest or f"{type(error).__name__}: {first_line}"
    return text.replace(uri, without_secrets(uri)) if uri else text
