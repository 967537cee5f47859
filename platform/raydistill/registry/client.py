"""The students of a model registry: found, listed, copied out and given aliases."""

import os
import re
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from raydistill.discovery import unknown_choice
from raydistill.registry.card import model_card
from raydistill.registry.checkpoints import checkpoint_among
from raydistill.registry.student import FIGURES_TAG, StudentVersion
from raydistill.tracking.delivery import reason
from raydistill.tracking.quiet import load_mlflow
from raydistill.tracking.registration import CARD
from raydistill.tracking.store import is_database, without_secrets

_REFERENCE = re.compile(r"(?:models:/)?(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))?")
_SQLITE = "sqlite:///"
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_CONNECT_S = 10.0
_PAGE = 1000
_CAMPAIGN = "campaign"
_MISSING = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INVALID_PARAMETER_VALUE")


@dataclass(frozen=True)
class RegisteredStudent:
    """A registered name with all of its versions, the newest first."""

    name: str
    versions: tuple[StudentVersion, ...]
    aliases: Mapping[str, int]

    @property
    def best(self) -> tuple[str, float, int] | None:
        """Metric, value and version of the best one by the metric that the newest version tells; None without any."""
        compared = next((one.compared_by for one in self.versions if one.compared_by is not None), None)
        if compared is None:
            return None
        metric, greater = compared
        known = [(one.figures[metric], one.number) for one in self.versions if metric in one.figures]
        if not known:
            return None
        value, number = max(known, key=lambda pair: pair[0] if greater else -pair[0])
        return metric, value, number


class Registry:
    """The model registry of the MLflow store at a URI.

    Every call raises ValueError of one line, with the remedy, for what is not there and for a store that fails.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._where = without_secrets(uri)
        _check_there(uri, self._where)
        with self._asked():
            mlflow = load_mlflow()
            self._mlflow = mlflow
            mlflow.set_tracking_uri(uri)
            mlflow.set_registry_uri(uri)
            self._client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)

    def students(self) -> list[RegisteredStudent]:
        """All registered students by name."""
        with self._asked():
            models = sorted(_pages(self._client.search_registered_models), key=lambda model: str(model.name))
            return [self._student(model) for model in models]

    def find(self, reference: str) -> StudentVersion:
        """The version that ``NAME``, ``NAME@ALIAS`` or ``NAME/VERSION`` means; without either it is the newest."""
        parts = _REFERENCE.fullmatch(reference)
        if parts is None:
            raise ValueError(f"model is {reference!r}; write NAME, NAME@ALIAS or NAME/VERSION")
        with self._asked():
            student = self._named(parts["name"])
            number = max((one.number for one in student.versions), default=0)
            if parts["alias"]:
                number = _alias(student, parts["alias"])
            elif parts["version"]:
                number = int(parts["version"])
            found = self._version(student, number)
            campaign = found.tags.get(_CAMPAIGN) or self._campaign(found.run_id)
            return replace(found, tags={**found.tags, _CAMPAIGN: campaign}) if campaign else found

    def holder(self, name: str, alias: str) -> StudentVersion | None:
        """The version that has an alias, None when none has."""
        with self._asked():
            student = self._named(name)
            return self._version(student, student.aliases[alias]) if alias in student.aliases else None

    def pull(self, version: StudentVersion, folder: Path) -> None:
        """Copy a version out as a plain transformers folder with its card, in one rename."""
        if folder.exists() or folder.is_symlink():
            raise ValueError(f"{folder} exists; give another folder or remove it")
        if not folder.parent.is_dir():
            raise ValueError(f"{folder} is in a folder that does not exist; make {folder.parent} first")
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as temporary:
            self.download(version, Path(temporary)).rename(folder)

    def download(self, version: StudentVersion, target: Path) -> Path:
        """The same folder below ``target``, which is there and empty."""
        artifacts = load_mlflow("mlflow.artifacts")
        reference = f"models:/{version.name}/{version.number}"
        with self._asked():
            artifacts.download_artifacts(artifact_uri=reference, dst_path=str(target))
        found = checkpoint_among(target, reference)
        card = target / CARD
        # Older versions have none.
        text = card.read_text(encoding="utf-8") if card.is_file() else None
        if found != target or text is None:
            text = text or model_card(version.name, version.tags, found, rows=version.rows)
            (found / CARD).write_text(text, encoding="utf-8")
        return found

    def set_alias(self, version: StudentVersion, alias: str) -> None:
        """Point an alias to a version."""
        with self._asked():
            self._client.set_registered_model_alias(version.name, alias, str(version.number))

    def set_tag(self, version: StudentVersion, name: str, text: str) -> None:
        """Set a tag of a version."""
        with self._asked():
            self._client.set_model_version_tag(version.name, str(version.number), name, text)

    def _named(self, name: str) -> RegisteredStudent:
        try:
            return self._student(self._client.get_registered_model(name))
        except self._mlflow.MlflowException as error:
            if error.error_code not in _MISSING:
                raise
        names = sorted(str(model.name) for model in _pages(self._client.search_registered_models))
        if not names:
            raise ValueError(f"model is {name!r}, but the registry at {self._where} has none; register one first")
        raise ValueError(unknown_choice("model", name, names))

    def _student(self, model: Any) -> RegisteredStudent:
        quoted = str(model.name).replace("'", "''")
        found = list(_pages(self._client.search_model_versions, f"name = '{quoted}'"))
        aliases = {alias: int(number) for alias, number in dict(model.aliases).items()}
        versions = sorted((self._read(one, aliases) for one in found), key=lambda one: -one.number)
        return RegisteredStudent(str(model.name), tuple(versions), aliases)

    def _version(self, student: RegisteredStudent, number: int) -> StudentVersion:
        found = next((one for one in student.versions if one.number == number), None)
        if found is not None:
            return found
        known = ", ".join(str(one.number) for one in student.versions) or "none"
        raise ValueError(f"version is {number}, which {student.name!r} does not have; versions: {known}")

    def _read(self, found: Any, aliases: Mapping[str, int]) -> StudentVersion:
        number = int(found.version)
        tags = {str(key): str(text) for key, text in found.tags.items()}
        held = tuple(sorted(alias for alias, at in aliases.items() if at == number))
        metrics = {} if FIGURES_TAG in tags else self._metrics(found)
        return StudentVersion(str(found.name), number, tags, held, metrics, found.run_id or None)

    def _metrics(self, found: Any) -> dict[str, float]:
        model_id = str(found.source or "").removeprefix("models:/")
        if not model_id.startswith("m-"):
            return {}
        try:
            logged = self._client.get_logged_model(model_id)
        except self._mlflow.MlflowException as error:
            if error.error_code not in _MISSING:
                raise
            # Somebody removed it; the version's tags are still worth showing.
            return {}
        return {str(metric.key): float(metric.value) for metric in logged.metrics or ()}

    def _campaign(self, run_id: str | None) -> str | None:
        """The campaign that the version's run, or one that it is part of, is tagged with."""
        try:
            for _ in range(4):
                if not run_id:
                    return None
                tags = self._client.get_run(run_id).data.tags
                if tags.get(_CAMPAIGN):
                    return str(tags[_CAMPAIGN])
                run_id = tags.get("mlflow.parentRunId")
        except self._mlflow.MlflowException as error:
            if error.error_code not in _MISSING:
                raise
        return None

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Turn what MLflow's client raises into one line; a local file that fails is not the store's fault."""
        try:
            yield
        except ValueError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.filename:
                raise
            why = reason(error, uri=self.uri)
            raise ValueError(f"the registry at {self._where} fails: {why}; start it or give --tracking-uri") from None


def _pages(search: Any, query: str | None = None) -> Iterator[Any]:
    token = None
    while True:
        page = search(filter_string=query, max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _alias(student: RegisteredStudent, alias: str) -> int:
    if alias in student.aliases:
        return student.aliases[alias]
    if not student.aliases:
        raise ValueError(f"alias is {alias!r}, but {student.name!r} has none; give a version, such as {student.name}/1")
    raise ValueError(unknown_choice("alias", alias, sorted(student.aliases)))


def registry_uri(storage: Path | None, tracking_uri: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """The store that a command means: a URI, a job's storage folder, ``MLFLOW_TRACKING_URI``, or ``runs``."""
    given = tracking_uri or (None if storage else environment.get("MLFLOW_TRACKING_URI"))
    return given or f"{_SQLITE}{(storage or Path('runs')).expanduser().absolute() / 'mlflow.db'}"


def _check_there(uri: str, where: str) -> None:
    """Raise ValueError for a database file that is not there, and for a database that takes no connection in time."""
    if uri.startswith(_SQLITE):
        # Opening it would make an empty one.
        if not Path(urlsplit(uri).path[1:]).is_file():
            raise ValueError(
                f"there is no registry at {where}; register a model first, or give --storage or --tracking-uri"
            )
        return
    parts = urlsplit(uri)
    port = parts.port or _PORTS.get(parts.scheme.split("+")[0])
    # A tracking server answers or refuses at once by itself, maybe through a proxy.
    if not is_database(uri) or parts.hostname is None or port is None:
        return
    try:
        # MLflow itself tries a database that is away for minutes.
        socket.create_connection((parts.hostname, port), timeout=_CONNECT_S).close()
    except OSError as error:
        why = error.strerror or str(error)
        raise ValueError(
            f"the registry at {where} does not answer ({why}); start it or give another --tracking-uri"
        ) from None
