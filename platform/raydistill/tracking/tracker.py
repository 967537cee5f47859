"""What a run records and where it goes: MLflow through one actor, memory, or nowhere."""

import logging
import shlex
import time
import uuid
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydistill.config.sections import TrackingConfig
from raydistill.credentials import without_secrets
from raydistill.tracking.actor import TrackerActor
from raydistill.tracking.delivery import Outcome
from raydistill.tracking.quiet import mlflow_environment
from raydistill.tracking.spool import REJECTED
from raydistill.tracking.store import spool_folder, store_of
from raydistill.user_error import UserError

logger = logging.getLogger(__name__)

_MOST_UNSPOOLED = 256
_POLL_S = 0.05
_OPENING_S = 30.0
_FAILING_S = 60.0
_CLOSE_S = 10.0


class Tracker(ABC):
    """Runs by stable keys (such as ``job/stage``), their parameters, metrics, tags, artifacts and models.

    Calls return at once and never raise because of the tracking store, ``register_model`` excepted.
    A subclass decides in ``_send`` what becomes of a record.
    """

    uri: str = ""
    """Where the records end, for messages."""
    lost: str = ""
    """What MLflow will never have of what was sent, and why, in one line; known once all is delivered."""

    def start_run(
        self,
        key: str,
        *,
        name: str | None = None,
        parent: str | None = None,
        tags: Mapping[str, Any] | None = None,
        resume: bool = False,
        wait: bool = False,
    ) -> str | None:
        """Start the run that later calls name by ``key``; ``parent`` is the key of its parent run.

        ``resume`` continues the run that an earlier process started for this key, if there is one. Returns the
        MLflow run id when told to ``wait`` and MLflow answers within a minute.
        """
        options = {"name": name or key, "parent": parent, "tags": _texts(tags or {}), "resume": resume}
        sent = self._send({**_record("start_run", key), **options, "token": uuid.uuid4().hex})
        return self._answer(sent, timeout_s=60.0).value if wait else None

    def log_params(self, key: str, params: Mapping[str, Any]) -> None:
        """Parameters of a run; nested mappings become dotted names."""
        self._send({**_record("log_params", key), "params": _texts(flat(params))})

    def log_metrics(self, key: str, metrics: Mapping[str, Any], step: int = 0) -> None:
        """Numbers of a run at a step."""
        values = {name: float(value) for name, value in metrics.items()}
        self._send({**_record("log_metrics", key), "metrics": values, "step": int(step)})

    def set_tags(self, key: str, tags: Mapping[str, Any]) -> None:
        """Tags of a run, replacing those of the same names."""
        self._send({**_record("set_tags", key), "tags": _texts(tags)})

    def log_artifact(self, key: str, path: str, folder: str | None = None) -> None:
        """A file or folder of the driver's node, kept under ``folder`` of its artifacts; it stays until ``flush``."""
        self._send({**_record("log_artifact", key), "path": str(Path(path).absolute()), "folder": folder})

    def log_text(self, key: str, text: str, file: str) -> None:
        """A text kept as ``file`` (a relative path) of the run's artifacts; works from any node."""
        self._send({**_record("log_text", key), "text": text, "file": file})

    def end_run(self, key: str, status: str = "FINISHED") -> None:
        """End a run with MLflow's status FINISHED, FAILED or KILLED."""
        self._send({**_record("end_run", key), "status": status})

    @contextmanager
    def ended(self, key: str) -> Iterator[None]:
        """Ends a run with the status that fits how the block ends."""
        status = "FAILED"
        try:
            yield
            status = "FINISHED"
        except (KeyboardInterrupt, SystemExit):
            status = "KILLED"
            raise
        finally:
            self.end_run(key, status)

    def register_model(
        self,
        key: str,
        folder: str,
        *,
        name: str,
        tags: Mapping[str, Any] | None = None,
        alias: str = "candidate",
        metrics: Mapping[str, Any] | None = None,
        task: str | None = None,
        card: str | None = None,
        timeout_s: float = 600.0,
    ) -> int | None:
        """Register the model and tokenizer in ``folder`` (on the driver's node) and return the version number.

        The same content is registered once for a run. ``task`` is the transformers pipeline that loads it, None for
        the one of its head. ``card`` is kept beside the model as ``README.md``.
        Raises ValueError, with the remedy, when the registry refuses or does not answer in time.
        """
        options = {
            "folder": str(Path(folder).absolute()),
            "name": name,
            "tags": _texts(tags or {}),
            "alias": alias,
            "metrics": {metric: float(value) for metric, value in (metrics or {}).items()},
            "task": task,
            "card": card,
        }
        answer = self._answer(self._send({**_record("register_model", key), **options}), timeout_s=timeout_s)
        where = f"model {name!r} is not registered at {self.uri}"
        if not answer.done:
            why = answer.error or "no answer"
            raise UserError(f"{where}: {why}; run the same command again when it answers, finished stages are skipped")
        if answer.error is not None:
            raise UserError(f"{where}: {' '.join(answer.error.split())}; change the stage or the registry")
        return answer.value

    def ready(self, timeout_s: float = 120.0) -> None:
        """Wait until records can be delivered; raises ValueError when the store cannot be opened."""
        return

    def wait_until_spooled(self, timeout_s: float = 60.0) -> None:
        """Wait until what this process sent would outlive the tracker and this process, or warn that it may not."""
        return

    def flush(self, timeout_s: float = 60.0) -> bool:
        """Wait until everything sent so far is delivered; False, with a warning, if some of it is not."""
        return True

    def close(self) -> None:
        """Flush and give up what the tracker holds; no call may follow."""
        self.flush()

    @abstractmethod
    def _send(self, record: dict[str, Any]) -> Any:
        """Hand over a record; what is returned goes to ``_answer``."""

    def _answer(self, sent: Any, *, timeout_s: float) -> Outcome:
        return Outcome(done=True)


class NullTracker(Tracker):
    """Keeps nothing."""

    def _send(self, record: dict[str, Any]) -> None:
        return None


class RayTracker(Tracker):
    """Sends records to the tracker actor; can be pickled into any task or actor of the same cluster."""

    def __init__(self, actor: Any, *, uri: str, folder: str) -> None:
        self._actor = actor
        self.uri = uri
        self.folder = folder
        """Where records are spooled on the driver's node."""
        self._is_refused = False
        self._unspooled: dict[Any, None] = {}
        """What this process sent and has not seen spooled: after a restart of the actor Ray repeats calls in any order,
        so that a later call's answer says nothing of them."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_unspooled": {}}

    def ready(self, timeout_s: float = 120.0) -> None:
        """Wait until MLflow is open; raises ValueError with its error when it cannot be opened in time."""
        refusal = self._refusal(time.monotonic() + timeout_s)
        if refusal is not None:
            self._is_refused = True
            raise UserError(refusal)

    def _refusal(self, deadline: float) -> str | None:
        status: dict[str, Any] = {"error": None}
        while time.monotonic() < deadline:
            try:
                status = ray.get(self._actor.status.remote(), timeout=_left(deadline))
            except ray.exceptions.GetTimeoutError:
                break
            except ray.exceptions.RayError as error:
                return f"tracking at {self.folder} cannot start: {_last_line(error)}"
            if status["failure"] is not None:
                return f"tracking at {self.folder} cannot start: {status['failure']}"
            if status["ready"]:
                return None
            if status["error"] is not None:
                # A server that is only starting answers by then.
                deadline = min(deadline, time.monotonic() + _OPENING_S)
            time.sleep(_POLL_S)
        return f"tracking.uri {self.uri!r} cannot be opened: {status['error'] or 'no answer'}; start it or change it"

    def wait_until_spooled(self, timeout_s: float = 60.0) -> None:
        """Wait for the tracker, which comes back when it was killed, to have written every record to its spool."""
        self._see_spooled(timeout_s)
        if self._unspooled:
            logger.warning("the tracker has not taken %d records in %.0f s", len(self._unspooled), timeout_s)

    def flush(self, timeout_s: float = 60.0) -> bool:
        """Wait until MLflow has everything sent so far; False, with a warning, if it lacks or refused a record."""
        deadline = time.monotonic() + timeout_s
        try:
            self._see_spooled(timeout_s)
            last = ray.get(self._actor.last.remote(), timeout=_left(deadline))
            delivered = self._poll(last, deadline).done and not self._unspooled
            status = ray.get(self._actor.status.remote(), timeout=_left(deadline))
        except ray.exceptions.RayError as error:
            logger.warning("the tracker gives no answer (%s); %s", _last_line(error), self._remedy())
            return False
        if not delivered:
            why = status["error"] or "no answer"
            logger.warning("%d records wait for %s (%s); %s", status["waiting"], self.uri, why, self._remedy())
        if status["rejected"]:
            why = " ".join(str(status["rejection"]).split())
            many = "a record" if status["rejected"] == 1 else f"{status['rejected']} records"
            self.lost = f"MLflow refused {many}, kept in {self.folder}/{REJECTED}: {why}"
        return bool(delivered and not status["rejected"])

    def close(self, timeout_s: float = 60.0) -> None:
        """End the runs that run still, flush, and end the actor, which frees the spool for another; always ends."""
        try:
            if not self._is_refused:
                self._actor.end_runs.remote()
                self.flush(timeout_s)
            ray.get(self._actor.close.remote(), timeout=_CLOSE_S)
        except ray.exceptions.RayError as error:
            logger.debug("the tracker was not closed: %s", error)
        ray.kill(self._actor)

    def _remedy(self) -> str:
        return f"deliver them later with: raydistill track-sync {shlex.quote(self.folder)}"

    def _send(self, record: dict[str, Any]) -> Any:
        try:
            sent = self._actor.append.remote(record)
        except ray.exceptions.RayError as error:
            # Not asked again: training goes on without its tracker.
            self.lost = f"a record ({record['op']}) is lost: {_last_line(error)}"
            logger.warning(self.lost)
            return None
        self._unspooled[sent] = None
        if len(self._unspooled) >= _MOST_UNSPOOLED:
            self._see_spooled(0)
        return sent

    def _see_spooled(self, timeout_s: float) -> None:
        """Forget what was spooled, once all is or the time is over."""
        # Runs of a matrix send from threads of their own; single operations on a dict need no lock.
        sent = list(self._unspooled)
        if sent:
            spooled, _ = ray.wait(sent, num_returns=len(sent), timeout=timeout_s)
            for one in spooled:
                self._unspooled.pop(one, None)

    def _answer(self, sent: Any, *, timeout_s: float) -> Outcome:
        if sent is None:
            return Outcome(done=False, error="the tracker has ended")
        deadline = time.monotonic() + timeout_s
        try:
            return self._poll(ray.get(sent, timeout=timeout_s), deadline, failing_s=_FAILING_S)
        except ray.exceptions.RayError as error:
            return Outcome(done=False, error=_last_line(error))

    def _poll(self, sequence: int, deadline: float, *, failing_s: float = float("inf")) -> Outcome:
        """Ask until a record is done, until ``deadline``, or until the store has failed for ``failing_s``."""
        failing_since: float | None = None
        while True:
            outcome: Outcome = ray.get(self._actor.outcome.remote(sequence), timeout=_left(deadline))
            now = time.monotonic()
            failing_since = None if outcome.error is None else failing_since or now
            if outcome.done or now > deadline or (failing_since is not None and now - failing_since > failing_s):
                return outcome
            time.sleep(_POLL_S)


def start_tracker(config: TrackingConfig, *, folder: str, job: str) -> RayTracker:
    """Start the tracker actor on this node; it ends with the driver.

    ``folder`` (an absolute path) gets the spool and, unless ``config.uri`` says otherwise, MLflow's database and
    artifacts. ``job``, the name of a job or campaign, tells whose spool it is, and names the experiment unless the
    configuration does. Returns before MLflow is open, see ``Tracker.ready``; what an earlier process could not deliver
    is delivered first.
    """
    experiment = config.experiment or job
    root = Path(folder).absolute()
    spool = spool_folder(root, experiment, job)
    store = store_of(config, root, experiment)
    node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor_type: Any = ray.remote(
        num_cpus=0,
        # A tracker that was killed comes back, however often, and goes on from its spool.
        max_restarts=-1,
        max_task_retries=-1,
        scheduling_strategy=node,
        # MLflow and the hub client read these on import, so the process has to start with them.
        runtime_env={"env_vars": mlflow_environment()},
    )(TrackerActor)
    return RayTracker(actor_type.remote(store, str(spool)), uri=without_secrets(store.uri), folder=str(spool))


def flat(section: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings as one, with dotted keys; of those that would meet, as keys may have dots, with slashes."""
    leaves = dict(_leaves(section, ()))
    times = Counter(map(".".join, leaves))
    return {(".".join(path) if times[".".join(path)] == 1 else "/".join(path)): leaves[path] for path in leaves}


def _leaves(section: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, str(key)))
        else:
            yield (*path, str(key)), value


def _record(op: str, key: str) -> dict[str, Any]:
    return {"op": op, "key": key, "time": time.time_ns() // 1_000_000}


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items()}


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), _POLL_S)


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
