"""A client of the model registry: lists students, finds and downloads versions, sets aliases and tags."""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from raydistill import names
from raydistill.credentials import resolved, without_secrets
from raydistill.discovery import unknown_choice
from raydistill.registry.card import model_card
from raydistill.registry.reference import SCHEME, ModelReference
from raydistill.registry.student import FIGURES_TAG, RegisteredStudent, StudentVersion
from raydistill.store_paths import at_home
from raydistill.tracking.delivery import reason
from raydistill.tracking.opening import open_client
from raydistill.tracking.quiet import load_mlflow
from raydistill.tracking.registration import CARD, EXPORTS, MODEL
from raydistill.tracking.store import is_database
from raydistill.user_error import UserError

_SQLITE = "sqlite:///"
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_CONNECT_S = 10.0
_PAGE = 1000
_CAMPAIGN = "campaign"
_MISSING = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INVALID_PARAMETER_VALUE")


class Registry:
    """The model registry of the MLflow store at a URI.

    Every call raises ValueError of one line, with the remedy, for what is not there and for a store that fails.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._where = without_secrets(uri)
        _check_there(uri, self._where)
        with self._errors_told():
            self._mlflow = load_mlflow()
            self._client = open_client(uri)

    def students(self) -> list[RegisteredStudent]:
        """All registered students by name."""
        with self._errors_told():
            models = sorted(_pages(self._client.search_registered_models), key=lambda model: str(model.name))
            students = [self._student(model) for model in models]
            return [replace(one, versions=tuple(map(self._with_metrics, one.versions))) for one in students]

    def find(self, reference: ModelReference) -> StudentVersion:
        """The version that a reference means."""
        with self._errors_told():
            found = self._with_metrics(self._named(reference.name).version(reference))
            campaign = found.tags.get(_CAMPAIGN) or self._campaign(found.run_id)
            return replace(found, tags={**found.tags, _CAMPAIGN: campaign}) if campaign else found

    def holder(self, name: str, alias: str) -> StudentVersion | None:
        """The version that an alias points to, None when there is no such alias."""
        with self._errors_told():
            found = [one for one in self._named(name).versions if alias in one.aliases]
            return self._with_metrics(found[0]) if found else None

    def pull(self, version: StudentVersion, folder: Path, *, export: str | None = None) -> None:
        """Copy a version out as a plain transformers folder with its card, or the export of a format.

        ``folder`` is made whole or not at all.
        """
        if folder.exists() or folder.is_symlink():
            raise UserError(f"{folder} exists; give another folder or remove it")
        if not folder.parent.is_dir():
            raise UserError(f"{folder} is in a folder that does not exist; make {folder.parent} first")
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as temporary:
            self.download(version, Path(temporary), export=export).rename(folder)

    def download(self, version: StudentVersion, target: Path, *, export: str | None = None) -> Path:
        """Download a version below ``target``, an empty folder, and return its transformers folder, card included.

        With ``export``, the folder of the export of this format.
        """
        found = self.download_checkpoint(version, target, export=export)
        if export is not None:
            return found
        card = target / CARD
        # Older versions have none.
        text = card.read_text(encoding="utf-8") if card.is_file() else None
        if found != target or text is None:
            text = text or model_card(version.name, version.tags, found, rows=version.rows)
            (found / CARD).write_text(text, encoding="utf-8")
        return found

    def download_checkpoint(self, version: StudentVersion, target: Path, *, export: str | None = None) -> Path:
        """The same without the card: weights, configuration and tokenizer, or those of an export."""
        if export is not None and export not in version.exports:
            known = version.exports
            raise UserError(
                unknown_choice("export", export, known)
                if known
                else f"export is {export!r}, but {version.title} has none; give exports to its register stage"
            )
        reference = str(ModelReference(version.name, version=version.number))
        artifacts = load_mlflow("mlflow.artifacts")
        # Exports, where there are any, stay away from who wants the student.
        wanted = [f"{EXPORTS}/{export}"] if export is not None else [MODEL, CARD] if version.exports else [""]
        with self._errors_told():
            for path in wanted:
                uri = f"{reference}/{path}".rstrip("/")
                artifacts.download_artifacts(artifact_uri=uri, dst_path=str(target))
        return target / EXPORTS / export if export is not None else _checkpoint_in(target, reference)

    def set_alias(self, version: StudentVersion, alias: str) -> None:
        """Point an alias to a version."""
        with self._errors_told():
            self._client.set_registered_model_alias(version.name, alias, str(version.number))

    def set_tag(self, version: StudentVersion, name: str, text: str) -> None:
        """Set a tag of a version."""
        with self._errors_told():
            self._client.set_model_version_tag(version.name, str(version.number), name, text)

    def _named(self, name: str) -> RegisteredStudent:
        try:
            return self._student(self._client.get_registered_model(name))
        except self._mlflow.MlflowException as error:
            if error.error_code not in _MISSING:
                raise
        known = sorted(str(model.name) for model in _pages(self._client.search_registered_models))
        if not known:
            raise UserError(f"model is {name!r}, but the registry at {self._where} has none; register one first")
        raise UserError(unknown_choice("model", name, known))

    def _student(self, model: Any) -> RegisteredStudent:
        quoted = names.quoted(str(model.name))
        pages = _pages(self._client.search_model_versions, None if quoted is None else f"name = {quoted}")
        found = [one for one in pages if one.name == model.name]
        aliases = {alias: int(number) for alias, number in dict(model.aliases).items()}
        versions = sorted((_read(one, aliases) for one in found), key=lambda one: -one.number)
        return RegisteredStudent(str(model.name), tuple(versions), aliases)

    def _with_metrics(self, version: StudentVersion) -> StudentVersion:
        model_id = version.source.removeprefix(SCHEME)
        if FIGURES_TAG in version.tags or not model_id.startswith("m-"):
            return version
        try:
            logged = self._client.get_logged_model(model_id)
        except self._mlflow.MlflowException as error:
            if error.error_code not in _MISSING:
                raise
            # Somebody removed it; the version's tags are still worth showing.
            return version
        return replace(version, metrics={str(metric.key): float(metric.value) for metric in logged.metrics or ()})

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
    def _errors_told(self) -> Iterator[None]:
        """Turn an error of MLflow's client into a ValueError of one line, except one of a local file."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.filename:
                raise
            why = reason(error, uri=self.uri)
            raise UserError(f"the registry at {self._where} fails: {why}; start it or give another URI") from None


def _read(found: Any, aliases: Mapping[str, int]) -> StudentVersion:
    number = int(found.version)
    return StudentVersion(
        str(found.name),
        number,
        {str(key): str(text) for key, text in found.tags.items()},
        aliases=tuple(sorted(alias for alias, at in aliases.items() if at == number)),
        run_id=found.run_id or None,
        source=str(found.source or ""),
        created_ms=found.creation_timestamp,
    )


def _pages(search: Any, query: str | None = None) -> Iterator[Any]:
    token = None
    while True:
        page = search(filter_string=query, max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _checkpoint_in(root: Path, reference: str) -> Path:
    folders = sorted((path.parent for path in root.rglob("config.json")), key=lambda folder: len(folder.parts))
    found = [folder for folder in folders if any(folder.glob("*.safetensors"))]
    if not found:
        raise UserError(f"{reference} has no config.json with safetensors; register it in the transformers flavor")
    tokenizer = root / "components" / "tokenizer"
    if tokenizer.is_dir() and not (found[0] / "tokenizer_config.json").is_file():
        shutil.copytree(tokenizer, found[0], dirs_exist_ok=True)
    return found[0]


def registry_uri(storage: Path | None, tracking_uri: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """The store that a command means: a URI, a job's storage folder, ``MLFLOW_TRACKING_URI``, or ``runs``."""
    given = tracking_uri or (None if storage else environment.get("MLFLOW_TRACKING_URI"))
    if given:
        return resolved(given, key="--tracking-uri", environment=environment)
    return f"{_SQLITE}{at_home(storage or 'runs').absolute() / 'mlflow.db'}"


def _check_there(uri: str, where: str) -> None:
    """Raise ValueError for a database file that is not there, and for a database that takes no connection in time."""
    if uri.startswith(_SQLITE):
        # Opening it would make an empty one.
        if not Path(urlsplit(uri).path[1:]).is_file():
            raise UserError(
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
        raise UserError(f"the registry at {where} does not answer ({why}); start it or give another URI") from None
