"""What an older release left in a spool that all jobs of an experiment shared, before each had its own."""

import json
from pathlib import Path

from raydistill.tracking.delivery import RUNS, Delivery
from raydistill.tracking.spool import delivered_from, is_spool, waiting_in
from raydistill.tracking.store import STORE_FILE, shared_spool


class EarlierRecords:
    """Records that waited in a shared spool when this began, of whichever job, and the runs that were started there.

    They come before those of the job's own spool, once: its note of runs tells that they did.
    """

    def __init__(self, own: Delivery) -> None:
        self._own = own
        self._shared = _leads_to_same_store(own)
        waiting = [] if self._shared is None else waiting_in(self._shared)
        self._last = waiting[-1].sequence if waiting else 0

    def deliver(self) -> None:
        """Deliver them, unless another job does, and remember their runs; raises what has to be tried again."""
        if self._shared is None:
            return
        if delivered_from(self._shared) < self._last:
            shared = Delivery(self._own.store, self._shared, lock_timeout_s=0.0)
            try:
                while shared.pending:
                    shared.send_next()
            finally:
                shared.close()
        runs = self._shared / RUNS
        self._own.open().know_runs(json.loads(runs.read_text(encoding="utf-8")) if runs.is_file() else {})
        self._shared = None


def _leads_to_same_store(own: Delivery) -> Path | None:
    """The shared spool, if there is one that this job has not looked at and that goes where its own records go."""
    shared = shared_spool(own.spool.folder)
    if shared is None or not is_spool(shared) or (own.spool.folder / RUNS).is_file():
        return None
    return shared if _noted_uri(shared) in (None, _noted_uri(own.spool.folder)) else None


def _noted_uri(spool: Path) -> str | None:
    note = spool / STORE_FILE
    return str(json.loads(note.read_text(encoding="utf-8"))["uri"]) if note.is_file() else None
