"""Checkpoints from MLflow's model registry: ``models:/<name>@<alias>`` and ``models:/<name>/<version>``.

MLflow is asked in a process of its own, because importing it changes how other libraries of a process behave.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Any

from raydistill.tracking.quiet import load_mlflow, mlflow_environment
from raydistill.tracking.store import without_secrets

_SCHEME = "models:/"
_REFERENCE = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")
_SQLITE = "sqlite:///"
_TIMEOUT_S = 600
_URI: ContextVar[str | None] = ContextVar("registry", default=None)


def is_registered(reference: str) -> bool:
    """Whether a reference is meant for a model registry."""
    return reference.startswith(_SCHEME)


@contextmanager
def registry_at(uri: str) -> Iterator[None]:
    """Let references inside the block, in this thread, mean the registry of the MLflow store at ``uri``."""
    token = _URI.set(uri)
    try:
        yield
    finally:
        _URI.reset(token)


def registered_folder(reference: str, cache: Path) -> Path:
    """The checkpoint folder of a registered model, fetched below ``cache`` unless it is there; its name tells which.

    An alias means the same version for as long as this process lives. Raises ValueError with the remedy for a reference
    of another form, outside ``registry_at``, and when the registry does not have the model or does not answer.
    """
    if _REFERENCE.fullmatch(reference) is None:
        raise ValueError(f"checkpoint is {reference!r}; write models:/NAME@ALIAS or models:/NAME/VERSION")
    uri = _URI.get()
    if uri is None:
        raise ValueError(f"checkpoint is {reference!r}, but no job tells the registry; name a folder")
    return _fetched(uri, reference, cache)


@lru_cache(maxsize=64)
def _fetched(uri: str, reference: str, cache: Path) -> Path:
    where = f"checkpoint is {reference!r}, which is not to be had from the registry at {without_secrets(uri)}"
    # Asking would make an empty database there.
    if uri.startswith(_SQLITE) and not Path(uri.removeprefix(_SQLITE)).is_file():
        raise ValueError(f"{where}: there is none yet; register the model first or set tracking.uri")
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__, reference, str(cache)],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
            env={**os.environ, **mlflow_environment(), "MLFLOW_TRACKING_URI": uri},
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"{where}: it does not answer in {_TIMEOUT_S} s") from None
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        raise ValueError(f"{where}: {reason.replace(uri, without_secrets(uri))}")
    return Path(done.stdout.splitlines()[-1])


def download(reference: str, cache: Path) -> Path:
    """Fetch the checkpoint that a reference means in MLflow's configured registry; for a process of its own.

    Raises MLflow's exceptions, and ValueError for a model that is no transformers checkpoint.
    """
    client = load_mlflow().MlflowClient()
    parts = _REFERENCE.fullmatch(reference)
    assert parts is not None
    name = parts["name"]
    alias, version = parts["alias"], parts["version"]
    found = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, version)
    content = f"{found.name} {found.version} {found.source} {found.creation_timestamp}"
    folder = cache / hashlib.sha256(content.encode()).hexdigest()[:16]
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".") as temporary:
            _download_version(found, Path(temporary))
            checkpoint_among(Path(temporary), reference).rename(folder)
    return folder


def _download_version(found: Any, target: Path) -> None:
    artifacts = load_mlflow("mlflow.artifacts")
    artifacts.download_artifacts(artifact_uri=f"{_SCHEME}{found.name}/{found.version}", dst_path=str(target))


def checkpoint_among(root: Path, reference: str) -> Path:
    """The transformers folder among a model's artifacts, with its tokenizer beside the weights.

    Raises ValueError when there is none.
    """
    folders = sorted((path.parent for path in root.rglob("config.json")), key=lambda folder: len(folder.parts))
    found = [folder for folder in folders if any(folder.glob("*.safetensors"))]
    if not found:
        raise ValueError(f"{reference} has no config.json with safetensors; register it in the transformers flavour")
    tokenizer = root / "components" / "tokenizer"
    if tokenizer.is_dir() and not (found[0] / "tokenizer_config.json").is_file():
        shutil.copytree(tokenizer, found[0], dirs_exist_ok=True)
    return found[0]


def _main() -> None:
    try:
        folder = download(sys.argv[1], Path(sys.argv[2]))
    except Exception as error:
        # Whatever the client raises is told in one line by the process that asked.
        sys.exit(" ".join(str(error).split())[:500])
    sys.stdout.write(f"{folder}\n")


if __name__ == "__main__":
    _main()
