"""Deliver what waits in spools, without the jobs that wrote it and without Ray."""

import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from raydistill.credentials import without_secrets
from raydistill.tracking.delivery import Delivery, reason
from raydistill.tracking.earlier import EarlierRecords
from raydistill.tracking.spool import REJECTED, SpoolInUseError, is_spool, waiting_in
from raydistill.tracking.store import read_store, shared_spool, spool_folder
from raydistill.user_error import UserError

_PAUSE_S = 1.0
_RESOLVED = "resolved.yaml"


@dataclass(frozen=True)
class SyncResult:
    """What became of one spool: ``delivered`` and ``rejected`` records of this call, and those that still wait."""

    spool: str
    store: str
    delivered: int
    waiting: int
    rejected: int
    error: str | None = None
    """Why records still wait."""

    @property
    def line(self) -> str:
        """The numbers for a reader."""
        numbers = f"{self.delivered} delivered, {self.waiting} waiting, {self.rejected} rejected"
        kept = f"; the rejected are in {Path(self.spool) / REJECTED}" if self.rejected else ""
        return f"{self.spool}: {numbers} ({self.store}){kept}"

    @property
    def problem(self) -> str:
        """Why records still wait, and what to do."""
        command = f"raydistill track-sync {shlex.quote(self.spool)}"
        return f"{self.store} takes no records ({self.error}); {self.waiting} wait, when it answers run: {command}"


def find_spools(folder: Path) -> list[Path]:
    """Spools of a storage folder, of a job's folder, or the folder itself when it is one.

    Raises ValueError when there are none.
    """
    if is_spool(folder):
        return [folder]
    found = _of_job(folder)
    found += sorted(path for path in folder.glob("tracking/*") if is_spool(path))
    if not found:
        raise UserError(f"{folder} has no records of runs; give the storage folder of a job, such as runs")
    return found


def sync_all(folders: Sequence[Path], *, to: str | None = None) -> tuple[list[SyncResult], list[str]]:
    """Deliver every spool that can be; returns what became of them, and a line for each that is refused."""
    results, refusals = [], []
    for folder in folders:
        try:
            results.append(sync(folder, to=to))
        except UserError as error:
            refusals.append(str(error))
        except json.JSONDecodeError as error:
            refusals.append(f"{folder} holds a record that is damaged ({error}); restore it, or remove the folder")
    return results, refusals


def sync(folder: Path, *, to: str | None = None) -> SyncResult:
    """Deliver the records of one spool, in order, to the store it is meant for, at ``to`` if that has moved.

    A store that fails is tried again only after it took something. Raises ValueError when the spool is in use or
    ``to`` is another store than the one that has the runs.
    """
    store = read_store(folder, to=to)
    try:
        delivery = Delivery(store, folder, lock_timeout_s=0.0)
    except SpoolInUseError:
        raise UserError(f"{folder} is in use by a running job, which delivers its records itself") from None
    try:
        error = _deliver(delivery, must_have_runs=to is not None)
    finally:
        delivery.close()
    return SyncResult(
        spool=str(folder),
        store=without_secrets(store.uri),
        delivered=delivery.num_delivered,
        waiting=len(delivery.pending),
        rejected=delivery.num_rejected,
        error=error,
    )


def _deliver(delivery: Delivery, *, must_have_runs: bool) -> str | None:
    """Send all that waits; returns why it could not."""
    failed_at = len(delivery.pending)
    if must_have_runs and failed_at:
        try:
            missing = delivery.open().missing_runs(entry.record for entry in delivery.pending)
        except Exception as error:  # Whatever the store's client raises is told to the user.
            return reason(error, uri=delivery.store.uri)
        if missing:
            where = without_secrets(delivery.store.uri)
            raise UserError(f"{where} has no run of {missing[0]!r}, which these records continue; give its own store")
    earlier = EarlierRecords(delivery)
    while delivery.pending:
        try:
            earlier.deliver()
            delivery.send_next()
        except Exception as error:  # As above.
            if len(delivery.pending) == failed_at:
                return reason(error, uri=delivery.store.uri)
            failed_at = len(delivery.pending)
            time.sleep(_PAUSE_S)
    return None


def _of_job(folder: Path) -> list[Path]:
    """The spool of the job whose outputs are in ``folder``, after its experiment's where records still wait in that."""
    path = folder / _RESOLVED
    if not path.is_file():
        return []
    resolved = yaml.safe_load(path.read_text(encoding="utf-8"))
    job = resolved["name"]
    own = spool_folder(folder.absolute().parent, (resolved.get("tracking") or {}).get("experiment") or job, job)
    found = [own] if is_spool(own) else []
    shared = shared_spool(own)
    # Older releases kept those of all jobs together.
    return [shared, *found] if shared is not None and is_spool(shared) and waiting_in(shared) else found
