"""The one process of a job that writes to MLflow: it spools each record, then delivers in order and retries."""

import logging
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from raydistill.credentials import without_secrets
from raydistill.tracking.delivery import Delivery, Outcome, reason
from raydistill.tracking.earlier import EarlierRecords
from raydistill.tracking.store import Store
from raydistill.user_error import UserError

logger = logging.getLogger(__name__)

_FIRST_RETRY_S = 0.5
_LAST_RETRY_S = 60.0


class TrackerActor:
    """Appends records to the spool in ``folder`` at once and sends them to ``store`` from a thread.

    What fails is retried for ever, in order, so that nothing is lost while a server is away.
    """

    def __init__(self, store: Store, folder: str) -> None:
        self._error: str | None = None
        self._failure: str | None = None
        self._refusal: str | None = None
        self._opened: Delivery | None = None
        self._running: set[str] = set()
        self._is_ending = False
        try:
            self._opened = Delivery(store, Path(folder))
            self._opened.remember_store()
            self._earlier = EarlierRecords(self._opened)
        except OSError as error:
            # Raised here, it would fill the driver's terminal with Ray's tracebacks; ``status`` tells it.
            self._failure = str(error)
            return
        threading.Thread(target=self._deliver_for_ever, name="delivery", daemon=True).start()

    @property
    def _delivery(self) -> Delivery:
        if self._opened is None:
            raise RuntimeError(self._failure)
        return self._opened

    def append(self, record: dict[str, Any]) -> int:
        """Spool a record and return its sequence number; it is delivered later."""
        if record["op"] == "start_run":
            if self._is_ending:
                return self.last()
            self._running.add(record["key"])
        if record["op"] == "end_run":
            self._running.discard(record["key"])
        return self._delivery.append(record)

    def end_runs(self) -> None:
        """End as killed the runs that nobody ended, such as those of processes that Ctrl-C ended; start no more."""
        self._is_ending = True
        for key in sorted(self._running):
            self.append({"op": "end_run", "key": key, "time": time.time_ns() // 1_000_000, "status": "KILLED"})

    def last(self) -> int:
        """Sequence number of the latest record."""
        return self._delivery.spool.last

    def outcome(self, sequence: int) -> Outcome:
        """How far the record with this number came."""
        found = self._delivery.outcome(sequence)
        return found if found.done else replace(found, error=self._error)

    def status(self) -> dict[str, Any]:
        """Whether the store is open, how many records wait and were rejected, the latest error of the store.

        ``failure`` tells why there is no spool, so that nothing is recorded, or why the store can never be opened.
        """
        opened = self._opened
        return {
            "ready": opened is not None and opened.writer is not None,
            "waiting": len(opened.pending) if opened else 0,
            "rejected": opened.num_rejected if opened else 0,
            "rejection": opened.rejection if opened else "",
            "error": self._error,
            "failure": self._failure or self._refusal,
        }

    def close(self) -> None:
        """Remove what is delivered from the spool and let another process open it; no call may follow."""
        self._delivery.close()

    def _deliver_for_ever(self) -> None:
        retry_s = _FIRST_RETRY_S
        while True:
            try:
                self._delivery.open()
                self._error = self._refusal = None
                self._earlier.deliver()
                self._delivery.wait()
                self._delivery.send_next()
                retry_s = _FIRST_RETRY_S
            except Exception as error:  # Tracking must never end training: report, wait and try again.
                uri = self._delivery.store.uri
                self._error = reason(error, uri=uri)
                if isinstance(error, UserError) and self._delivery.writer is None:
                    self._refusal = str(error).replace(uri, without_secrets(uri))
                logger.warning("MLflow at %s takes no records; trying again. %s", without_secrets(uri), self._error)
                time.sleep(retry_s)
                retry_s = min(2 * retry_s, _LAST_RETRY_S)
