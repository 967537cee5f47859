"""A job on its way to a cluster: what may go, what goes along, and how it is started and started again."""

import json
import os
import secrets
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

import raydistill
from raydistill.cluster.job_api import ENDED, JobApi
from raydistill.cluster.local_paths import local_paths, replaced
from raydistill.cluster.uploads import FOLDER, Upload, uploads, write_package
from raydistill.config import yaml_text
from raydistill.credentials import has_reference
from raydistill.environment import quiet_variables
from raydistill.store_paths import at_home, is_in_store
from raydistill.user_error import UserError

JOB_KEY = "raydistill_job"
"""Key of a job's metadata that holds the whole job, as YAML."""
_STOPPING = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "60"}
"""A job is stopped as Ctrl-C does it, so that its runs end in MLflow too."""
_WITH_VARIABLES = "python -m raydistill.credentials "
_NEEDED = ("name", "storage")


@dataclass(frozen=True)
class Submission:
    """A job that a cluster can run."""

    job: Mapping[str, Any]
    """Its plain data; nothing in it is a place on this machine."""
    uploads: Sequence[Upload] = ()
    digests: Sequence[str] = ()
    """Of all its uploads, those that lie in the storage since an earlier submission too."""
    installed: bool = False
    """Whether raydistill is installed on the cluster, and so does not go along."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables for all processes of the job. They go in a file of the package that its owner alone may
    read: Ray writes those of a runtime environment into logs that all users of a machine may read."""

    @property
    def entrypoint(self) -> str:
        """The shell command that runs the job."""
        run = f"exec {_WITH_VARIABLES if self.variables else ''}python -m raydistill run job.yaml"
        if not self.digests:
            return run
        target = str(Path(self.job["storage"]) / FOLDER)
        return f"python -m raydistill.cluster.uploads {shlex.join([target, *self.digests])} && {run}"

    @property
    def metadata(self) -> dict[str, str]:
        """What the cluster keeps of the job, enough to submit it again."""
        return {
            JOB_KEY: yaml_text.dump(dict(self.job)),
            "raydistill_version": raydistill.__version__,
            "raydistill_installed": json.dumps(self.installed),
            "raydistill_uploads": json.dumps(list(self.digests)),
            "raydistill_variables": json.dumps(sorted(self.variables)),
            **{f"raydistill_{key}": str(self.job[key]) for key in _NEEDED},
        }

    @contextmanager
    def runtime_env(self) -> Iterator[dict[str, Any]]:
        """The runtime environment, its packages in a folder that is there for the time of the block."""
        with tempfile.TemporaryDirectory() as folder:
            package = Path(folder) / "job.zip"
            write_package(package, self.metadata[JOB_KEY], self.uploads, variables=self.variables)
            found: dict[str, Any] = {
                "working_dir": str(package),
                "env_vars": {**quiet_variables(), **_STOPPING},
            }
            if not self.installed:
                found["py_modules"] = [str(_package_copy(Path(folder)))]
            yield found


def _package_copy(folder: Path) -> Path:
    """The package without what Python made of it, so that equal code has one address on the cluster."""
    copy = folder / "raydistill"
    shutil.copytree(Path(raydistill.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    return copy


def prepare(
    job: Mapping[str, Any],
    *,
    upload: bool = False,
    shared: Sequence[str] = (),
    installed: bool = False,
    variables: Mapping[str, str] | None = None,
) -> Submission:
    """A submission of a job's validated plain data.

    ``shared`` are folders that all machines of the cluster see; the job's storage is one. Raises UserError, one line a
    place that only this machine has; with ``upload`` files and folders go along instead.
    """
    problems = place_problems(job)
    storage = str(job["storage"])
    known = [at_home(folder).absolute() for folder in shared]
    known += [] if "://" in storage or problems else [Path(storage)]
    found = local_paths(job, shared=known)
    if not upload:
        problems += [
            f"{each.key} is {each.value!r}, on this machine ({_size(each.num_bytes)}), where the cluster does not see "
            "it; add --upload, or --shared FOLDER if all its machines have that folder"
            for each in found
        ]
    elif found and "://" in storage:
        problems.append(f"--upload puts files below storage, which is {storage}; put them there and name them so")
    if problems:
        raise UserError(problems)
    going = uploads(found) if upload else []
    values = {each.path.keys: each.value(storage) for each in going}
    digests = sorted({each.digest for each in going})
    return Submission(replaced(job, values), going, digests, installed, variables or {})


def place_problems(job: Mapping[str, Any]) -> list[str]:
    """A line for the storage and for the tracking store if they are places that only this machine has."""
    storage, uri = str(job["storage"]), (job.get("tracking") or {}).get("uri")
    problems = []
    if "://" not in storage and not Path(storage).is_absolute():
        problems.append(
            f"storage is {storage!r}, a folder of this machine; name one that all machines of the cluster see, "
            "such as storage=/shared/runs"
        )
    if is_in_store(storage) and uri is None:
        problems.append(f"tracking.uri is missing, and storage is {storage!r}, which keeps no database; name a server")
    if uri is not None and not has_reference(uri) and _is_local_store(str(uri)):
        problems.append(
            f"tracking.uri is {uri!r}, a place on this machine; name a server, or leave it out to keep runs in storage"
        )
    return problems


def _is_local_store(uri: str) -> bool:
    """Whether a store is a relative path, as itself or behind ``sqlite:///``."""
    if uri.startswith("sqlite:"):
        return not urlsplit(uri).path.startswith("//")
    return "://" not in uri and not Path(uri).is_absolute()


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.1f} MiB" if num_bytes >= 2**20 / 10 else f"{num_bytes:,} bytes"


def submit(api: JobApi, submission: Submission) -> str:
    """Start the job and return its id; raises ValueError while the same job runs there: both would write one folder."""
    running = [job for job in api.jobs() if str(job.status) not in ENDED and _is_same(job, submission)]
    if running:
        raise UserError(
            f"{submission.job['name']} is already running as {running[0].submission_id} and writes to the same "
            f"storage; stop it first: raydistill stop {running[0].submission_id} --address {api.address}"
        )
    job_id = f"{submission.job['name']}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    with submission.runtime_env() as runtime_env:
        return api.submit(
            entrypoint=submission.entrypoint,
            submission_id=job_id,
            runtime_env=runtime_env,
            metadata=submission.metadata,
        )


def _is_same(info: Any, submission: Submission) -> bool:
    """Whether a job of the cluster writes to the folder that the submission would write to."""
    keys = [f"raydistill_{key}" for key in _NEEDED]
    return all((info.metadata or {}).get(key) == submission.metadata[key] for key in keys)


def again(
    info: Any, variables: Mapping[str, str] | None = None, environment: Mapping[str, str] = os.environ
) -> Submission:
    """The submission of a job that ended, to continue it, with the values of its variables given again.

    Raises ValueError for one that runs, or is not ours, or whose variable is neither given nor in the ``environment``.
    """
    metadata, job_id = info.metadata or {}, info.submission_id
    if JOB_KEY not in metadata:
        raise UserError(f"{job_id} was not submitted by raydistill; submit its file again")
    if str(info.status) not in ENDED:
        raise UserError(f"{job_id} has not ended (it is {info.status}); stop it first, or follow it")
    # Older releases had them in the runtime environment.
    known = {**environment, **((info.runtime_env or {}).get("env_vars") or {}), **(variables or {})}
    names = {*json.loads(metadata["raydistill_variables"]), *(variables or {})}
    missing = sorted(names - known.keys())
    if missing:
        raise UserError(
            f"{job_id} was submitted with --env {missing[0]}, whose value is kept nowhere; add --env {missing[0]}=VALUE"
        )
    return Submission(
        job=yaml.safe_load(metadata[JOB_KEY]),
        digests=json.loads(metadata["raydistill_uploads"]),
        installed=json.loads(metadata["raydistill_installed"]),
        variables={name: known[name] for name in sorted(names)},
    )
