"""Ray's job API as the commands use it: the address, the token, and every refusal in one line."""

import asyncio
import logging
import os
import queue
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from raydistill.threads import in_thread
from raydistill.user_error import UserError

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
"""Where ``ray dashboard`` brings the job API of a cluster to, and where a Ray on this machine has it."""
MAKE_TOKEN = (
    "make one with `ray get-auth-token --generate`, start the cluster with it and RAY_AUTH_MODE=token, and have it "
    "here in ~/.ray/auth_token, in a file that RAY_AUTH_TOKEN_PATH names, or in RAY_AUTH_TOKEN"
)
ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
"""States that a job stays in."""
_TIMEOUT_S = 10.0
_RETRY_S = 2.0
_STARTING_S = 90.0
_NOT_READY = "No available agent to submit job"
_TALKING = (
    *("ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"),
    *("ray._private.runtime_env.packaging", "ray._private.runtime_env.working_dir"),
)
"""Ray's loggers of what was uploaded and when a stream ended, which set their own level on import."""
_OVERRULING = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")


def find_token() -> str | None:
    """The token of this user, from where Ray itself takes it; None when there is none or tokens are off.

    Raises ValueError when tokens are on, which is the default here, and there is none.
    """
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    token = os.environ.get("RAY_AUTH_TOKEN", "").strip()
    if not token and path.is_file():
        token = path.read_text(encoding="utf-8").strip()
    if token:
        return token
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled":
        return None
    raise UserError(f"there is no token for the cluster in {path}; {MAKE_TOKEN}")


def checked_address(address: str) -> str:
    """An HTTP address of a dashboard; raises ValueError for any other."""
    text = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(text)
        is_one, port = parts.scheme in ("http", "https") and bool(parts.hostname), parts.port
    except ValueError:
        is_one, port = False, None
    if not is_one:
        raise UserError(f"--address is {address!r}; give the address of the dashboard, such as {DEFAULT_ADDRESS}")
    if port is None and parts.scheme == "http":
        text = f"{parts.scheme}://{parts.netloc}:8265"
    return text.rstrip("/")


class JobApi:
    """Jobs of one cluster; raises ValueError, one line with the remedy, for all that a user can put right."""

    def __init__(self, address: str) -> None:
        self.address = checked_address(address)
        token = find_token()
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        _probe(self.address, headers)
        from ray.job_submission import JobSubmissionClient

        for name in _TALKING:
            logging.getLogger(name).setLevel(logging.WARNING)
        with _without(_OVERRULING), self._refusals():
            self._client = JobSubmissionClient(self.address, headers=headers)

    @contextmanager
    def _refusals(self, job_id: str | None = None) -> Iterator[None]:
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except (requests.exceptions.RequestException, ConnectionError) as error:
            raise UserError(_no_answer(self.address, error)) from None
        except AuthenticationError as error:
            raise UserError(_denied(self.address, 403 if "Forbidden" in str(error) else 401)) from None
        except RuntimeError as error:
            if job_id is not None and "404" in str(error):
                raise UserError(
                    f"there is no job {job_id!r} at {self.address}; `raydistill status` lists those that it knows"
                ) from None
            first = next(iter(str(error).splitlines()), "")
            raise UserError(f"the cluster at {self.address} refused: {first}") from None

    def submit(self, **arguments: Any) -> str:
        """Start a job, as Ray's ``submit_job`` takes it; returns its id.

        A head that has just started answers before it can take jobs; it is asked again for a minute and a half.
        """
        deadline = time.monotonic() + _STARTING_S
        while True:
            try:
                with self._refusals():
                    return str(self._client.submit_job(**arguments))
            except UserError as error:
                if _NOT_READY not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_S)

    def jobs(self) -> list[Any]:
        """What Ray's ``list_jobs`` tells of all submitted jobs, the newest first."""
        with self._refusals():
            found = [job for job in self._client.list_jobs() if job.submission_id]
        return sorted(found, key=lambda job: job.start_time or 0, reverse=True)

    def job(self, job_id: str) -> Any:
        """What Ray's ``get_job_info`` tells of a job."""
        with self._refusals(job_id):
            return self._client.get_job_info(job_id)

    def logs(self, job_id: str) -> str:
        """Everything that a job wrote so far."""
        with self._refusals(job_id):
            return str(self._client.get_job_logs(job_id))

    def stop(self, job_id: str) -> bool:
        """Ask a job to end; False when it had ended before."""
        with self._refusals(job_id):
            return bool(self._client.stop_job(job_id))

    def follow(self, job_id: str, echo: Callable[[str], None]) -> Any:
        """Hand over what a job writes until it ends, from its start on; returns what ``job`` tells then.

        A connection that is cut is made again, and goes on after what was handed over. Raises ValueError when the
        cluster does not answer any more.
        """
        self.job(job_id)
        done = 0
        while True:
            done = self._tail(job_id, echo, done)
            info = self.job(job_id)
            if str(info.status) in ENDED:
                return info
            time.sleep(_RETRY_S)

    def _tail(self, job_id: str, echo: Callable[[str], None], done: int) -> int:
        """Hand over what comes after the first ``done`` characters; returns how many there are now.

        The stream is read in a thread. In the main one asyncio makes of Ctrl-C the cancellation of a task, which a
        library may take for a time-out of its own.
        """
        texts: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        reading = in_thread(lambda: asyncio.run(self._read(job_id, texts)))
        seen = 0
        while (text := texts.get()) is not None:
            seen += len(text)
            if seen > done:
                echo(text[-(seen - done) :])
                done = seen
        reading.result()
        return done

    async def _read(self, job_id: str, texts: "queue.SimpleQueue[str | None]") -> None:
        """Put the pieces of a job's stream into a queue, and None after the last."""
        import aiohttp

        try:
            async for text in self._client.tail_job_logs(job_id):
                texts.put(text)
        except (aiohttp.ClientError, RuntimeError):
            # The stream alone was cut; whether the cluster is still there, the next question tells.
            pass
        finally:
            texts.put(None)


def exit_code(info: Any) -> int | None:
    """What a job ended with: its program's exit status, 130 when it was stopped, None while it runs."""
    status = str(info.status)
    if status not in ENDED:
        return None
    if status == "SUCCEEDED":
        return 0
    if status == "STOPPED":
        return 130
    return int(info.driver_exit_code or 1)


def _probe(address: str, headers: dict[str, str]) -> None:
    import requests

    try:
        # Another address in the answer would be sent the token too.
        answer = requests.get(f"{address}/api/version", headers=headers, timeout=_TIMEOUT_S, allow_redirects=False)
    except requests.exceptions.RequestException as error:
        raise UserError(_no_answer(address, error)) from None
    if answer.status_code in (401, 403):
        raise UserError(_denied(address, answer.status_code))
    if answer.status_code != 200 or "ray_version" not in answer.text:
        raise UserError(f"--address {address} answers, but not as Ray's dashboard does; give the dashboard's address")


def _no_answer(address: str, error: Exception) -> str:
    why = "no answer in time" if "timed out" in str(error) else "no connection"
    return (
        f"nothing answers at {address} ({why}); check that the cluster runs, forward its port with "
        "`ray dashboard cluster.yaml`, or give --address"
    )


def _denied(address: str, status: int) -> str:
    if status == 401:
        return f"{address} asks for a token (401) and none was sent; unset RAY_AUTH_MODE=disabled and {MAKE_TOKEN}"
    return (
        f"{address} does not take this token (403); it must be the one that the cluster was started with: "
        "copy ~/.ray/auth_token from its head, or set RAY_AUTH_TOKEN"
    )


@contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    """Without variables that Ray would let overrule the address that was given."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
