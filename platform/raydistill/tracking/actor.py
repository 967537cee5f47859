"""The one process that writes to MLflow: it spools each record, then delivers in order and retries."""

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydistill.tracking.spool import Entry, Spool
from raydistill.tracking.writer import MlflowWriter, Store

logger = logging.getLogger(__name__)

_MAX_RECORDS_AT_ONCE = 200
_FIRST_RETRY_S = 0.5
_LAST_RETRY_S = 60.0
_ANSWERED = frozenset({"start_run", "register_model"})


@dataclass(frozen=True)
class Outcome:
    """How far a record came: delivered with a value, rejected with an error, or waiting, with the latest error."""

    done: bool
    value: Any = None
    error: str | None = None


class TrackerActor:
    """Appends records to the spool in ``folder`` at once and sends them to ``store`` from a thread.

    A record that MLflow can never take (a metric of a run that was not started, say) goes to ``rejected.jsonl``
    with a warning; any other failure is retried for ever, in order, so that nothing is lost while a server is away.
    """

    def __init__(self, store: Store, folder: str) -> None:
        self._store = store
        self._spool = Spool(Path(folder))
        self._pending: deque[Entry] = deque(self._spool.undelivered)
        self._last = self._spool.delivered + len(self._pending)
        self._delivered = self._spool.delivered
        self._outcomes: dict[int, Outcome] = {}
        self._num_rejected = 0
        self._error: str | None = None
        self._writer: MlflowWriter | None = None
        self._changed = threading.Condition()
        threading.Thread(target=self._deliver_for_ever, name="delivery", daemon=True).start()

    def append(self, record: dict[str, Any]) -> int:
        """Spool a record and return its sequence number; it is delivered later."""
        with self._changed:
            entry = self._spool.append(record)
            self._last = entry.sequence
            self._pending.append(entry)
            self._changed.notify_all()
        return entry.sequence

    def last(self) -> int:
        """Sequence number of the latest record."""
        return self._last

    def outcome(self, sequence: int) -> Outcome:
        """How far the record with this number came."""
        with self._changed:
            if sequence in self._outcomes:
                return self._outcomes[sequence]
            return Outcome(done=sequence <= self._delivered, error=self._error)

    def status(self) -> dict[str, Any]:
        """Whether the store is open, how many records wait and were rejected, and the latest error."""
        with self._changed:
            return {
                "ready": self._writer is not None,
                "waiting": self._last - self._delivered,
                "rejected": self._num_rejected,
                "error": self._error,
            }

    def _deliver_for_ever(self) -> None:
        retry_s = _FIRST_RETRY_S
        while True:
            try:
                if self._writer is None:
                    self._writer = MlflowWriter(self._store, self._spool.folder / "runs.json")
                    self._error = None
                self._deliver(self._next_entries())
                self._error, retry_s = None, _FIRST_RETRY_S
            except Exception as error:  # Tracking must never end training: report, wait and try again.
                self._error = f"{type(error).__name__}: {error}"
                logger.warning("MLflow at %s takes no records; trying again. %s", self._store.uri, self._error)
                time.sleep(retry_s)
                retry_s = min(2 * retry_s, _LAST_RETRY_S)

    def _next_entries(self) -> list[Entry]:
        """Wait for the next record; metrics of one run that wait in a row come together."""
        with self._changed:
            while not self._pending:
                self._changed.wait()
            entries = [self._pending[0]]
            first = entries[0].record
            for entry in list(self._pending)[1:_MAX_RECORDS_AT_ONCE] if first["op"] == "log_metrics" else []:
                if (entry.record["op"], entry.record["key"]) != ("log_metrics", first["key"]):
                    break
                entries.append(entry)
        return entries

    def _deliver(self, entries: list[Entry]) -> None:
        assert self._writer is not None
        value, error = None, None
        try:
            if len(entries) > 1:
                self._writer.deliver_metrics([entry.record for entry in entries])
            else:
                value = self._writer.deliver(entries[0].record)
        except Exception as failure:
            if not self._writer.is_permanent(failure):
                raise
            if len(entries) > 1:
                # One bad record must not take its neighbours with it.
                for entry in entries:
                    self._deliver([entry])
                return
            error = f"{type(failure).__name__}: {failure}"
        self._finish(entries, value, error)

    def _finish(self, entries: list[Entry], value: Any, error: str | None) -> None:
        last = entries[-1]
        if error is not None:
            self._spool.reject(last, error)
            logger.warning("MLflow cannot take record %d (%s): %s", last.sequence, last.record["op"], error)
        with self._changed:
            self._spool.mark_delivered(last)
            for _ in entries:
                self._pending.popleft()
            self._delivered = last.sequence
            self._num_rejected += error is not None
            if error is not None or last.record["op"] in _ANSWERED:
                self._outcomes[last.sequence] = Outcome(done=True, value=value, error=error)
