"""Where MLflow keeps runs, and the note of it that a spool carries, without credentials."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from raydistill import names
from raydistill.atomic import write_json
from raydistill.config.sections import TrackingConfig
from raydistill.credentials import HIDDEN, has_reference, resolved, without_secrets
from raydistill.store_paths import remote_uri
from raydistill.user_error import UserError

STORE_FILE = "store.json"
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_OF_JOB = "@"
"""Between an experiment and a job; quoted names have none."""


@dataclass(frozen=True)
class Store:
    """Where MLflow keeps runs; ``artifact_location`` is None where a server decides it."""

    uri: str
    artifact_location: str | None
    experiment: str
    place: str | None = None
    """URI of the storage where that is in an object store, which several machines continue the runs of."""
    reference: str | None = None
    """The URI as the job has it, where references stand for its secrets."""


def store_of(config: TrackingConfig, root: Path, experiment: str) -> Store:
    """Where a configuration keeps runs: a SQLite file below ``root`` by default.

    With a database there is no server to choose a place for artifacts, so it is a folder below ``root``, absolute:
    MLflow's own default depends on the working directory of the process that creates the experiment. Of a root that
    stands for a place of an object store it is the URI. Raises ValueError where a secret that ``config.uri`` refers to
    is not there.
    """
    uri = resolved(config.uri or f"sqlite:///{root / 'mlflow.db'}", key="tracking.uri")
    place = _artifacts(root) if is_database(uri) else None
    reference = config.uri if config.uri and has_reference(config.uri) else None
    return Store(uri, place, experiment, remote_uri(root), reference)


def _artifacts(root: Path) -> str:
    return remote_uri(root / "artifacts") or (root / "artifacts").as_uri()


def is_database(uri: str) -> bool:
    """Whether MLflow opens a database itself, with no server between."""
    return urlsplit(uri).scheme.split("+")[0] in _DATABASES


def spool_folder(root: Path, experiment: str, job: str) -> Path:
    """Where records of a job wait, below the storage folder: each job that shares an experiment has its own place."""
    name = quote(experiment, safe="")
    name = name if job == experiment else f"{name}{_OF_JOB}{quote(job, safe='')}"
    return root / "tracking" / names.short(name, names.SHORT)


def shared_spool(folder: Path) -> Path | None:
    """Where older releases kept records of all jobs of an experiment, of which this is a job's spool; None if here."""
    experiment, of_job, _ = folder.name.partition(_OF_JOB)
    return folder.with_name(experiment) if of_job else None


def database_file(uri: str) -> Path | None:
    """The file of a SQLite database; None for any other store."""
    parts = urlsplit(uri)
    path = parts.path[1:]
    if parts.scheme.split("+")[0] != "sqlite" or not path or path.startswith((":memory:", "file:")):
        return None
    return Path(path).absolute()


def write_store(folder: Path, store: Store) -> None:
    """Note in a spool's folder which store its records are meant for."""
    write_json(folder / STORE_FILE, asdict(replace(store, uri=without_secrets(store.uri))))


def read_store(folder: Path, *, to: str | None = None, environment: Mapping[str, str] = os.environ) -> Store:
    """The store that a spool's records are meant for, at ``to`` when its address has changed since.

    A password is never noted; it is what the job's URI refers to, or else taken from ``MLFLOW_TRACKING_URI`` when that
    is the same address. Raises ValueError, with the remedy, when the address is not known.
    """
    path = folder / STORE_FILE
    if not path.is_file():
        if to is None:
            raise UserError(f"{folder} does not name its MLflow store; add --to URI")
        return Store(to, None, unquote(folder.name.partition(_OF_JOB)[0]))
    store = Store(**json.loads(path.read_text(encoding="utf-8")))
    if to is not None:
        to = resolved(to, key="--to", environment=environment)
        return replace(store, uri=to, artifact_location=store.artifact_location if is_database(to) else None)
    if HIDDEN not in store.uri:
        return store
    if store.reference is not None:
        return replace(store, uri=resolved(store.reference, key="tracking.uri", environment=environment))
    given = environment.get("MLFLOW_TRACKING_URI", "")
    if without_secrets(given) != store.uri:
        raise UserError(f"{folder} goes to {store.uri}, whose password is not kept; set MLFLOW_TRACKING_URI to it")
    return replace(store, uri=given)
