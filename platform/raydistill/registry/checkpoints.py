"""Checkpoints from MLflow's model registry: ``models:/NAME@ALIAS`` and ``models:/NAME/VERSION``.

MLflow is asked in a process of its own, because importing it changes how other libraries of a process behave.
"""

import os
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

from raydistill.credentials import without_secrets
from raydistill.registry.client import Registry
from raydistill.registry.reference import ModelReference
from raydistill.tracking.quiet import mlflow_environment
from raydistill.user_error import UserError

_SQLITE = "sqlite:///"
_TIMEOUT_S = 600


def checkpoint_folder(reference: str, cache: Path, *, registry: str) -> Path:
    """The checkpoint folder of a registered model, downloaded below ``cache`` unless it is there; its name is unique.

    ``registry`` is the URI of its MLflow store. An alias means the same version for as long as this process lives.
    Raises ValueError with the remedy for a reference of another form, and when the registry does not have the model or
    does not answer.
    """
    ModelReference.parse_checkpoint(reference)
    return _downloaded(registry, reference, cache)


@lru_cache(maxsize=64)
def _downloaded(uri: str, reference: str, cache: Path) -> Path:
    problem = f"checkpoint is {reference!r}, which is not readable from the registry at {without_secrets(uri)}"
    # Asking would make an empty database there.
    if uri.startswith(_SQLITE) and not Path(uri.removeprefix(_SQLITE)).is_file():
        raise UserError(f"{problem}: there is none yet; register the model first or set tracking.uri")
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
        raise UserError(f"{problem}: it does not answer in {_TIMEOUT_S} s") from None
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        raise UserError(f"{problem}: {reason.replace(uri, without_secrets(uri))}")
    return Path(done.stdout.splitlines()[-1])


def _download(reference: ModelReference, cache: Path) -> Path:
    registry = Registry(os.environ["MLFLOW_TRACKING_URI"])
    version = registry.find(reference)
    folder = cache / (f"{version.content_key}-{reference.export}" if reference.export else version.content_key)
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".") as temporary:
            registry.download_checkpoint(version, Path(temporary), export=reference.export).rename(folder)
    return folder


def _main() -> None:
    try:
        folder = _download(ModelReference.parse(sys.argv[1]), Path(sys.argv[2]))
    except Exception as error:
        # The process that asked prints whatever the client raises in one line.
        sys.exit(" ".join(str(error).split())[:500])
    sys.stdout.write(f"{folder}\n")


if __name__ == "__main__":
    _main()
