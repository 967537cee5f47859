"""Local paths that stand for places of an object store: each URI has one below the cache folder, which tells it."""

import os
from pathlib import Path

from raydistill.user_error import UserError

SCHEME = "s3://"
_ROOT = "raydistill-s3"
"""Name of the folder whose subfolders are buckets; a path with it is told on machines with another cache folder too."""
_MOST_FILES = 20_000
"""More than any corpus or checkpoint has."""


def cache_folder() -> Path:
    """Where fetched files are kept: ``$RAYDISTILL_CACHE``, or ``~/.cache/raydistill``."""
    return Path(os.environ.get("RAYDISTILL_CACHE") or Path.home() / ".cache" / "raydistill")


def mirror_root() -> Path:
    """The folder of this machine below which object stores have their local paths, absolute."""
    return (cache_folder() / _ROOT).resolve()


def at_home(path: str | os.PathLike[str]) -> Path:
    """A path with its ``~`` written out; raises UserError where it names a user that this machine does not have."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        first = Path(path).parts[0]
        raise UserError(
            f"{os.fspath(path)!r} starts at {first}, which is not a user here; write the folder in full"
        ) from None


def is_in_store(place: str | os.PathLike[str]) -> bool:
    """Whether a text is the URI of a place in an object store, or a local path that stands for one."""
    return os.fspath(place).startswith(SCHEME) or remote_uri(place) is not None


def local_path(text: str) -> Path:
    """The local path of a URI in an object store; of any other text the path that it is."""
    if text.startswith(SCHEME):
        return mirror_root() / text.removeprefix(SCHEME).strip("/")
    return Path(text)


def remote_uri(path: str | os.PathLike[str]) -> str | None:
    """The URI that a local path stands for, wherever the cache folder of its machine is; None for any other path."""
    before, root, place = os.fspath(path).partition(f"/{_ROOT}/")
    return SCHEME + place.strip("/") if before and root else None


def here(path: str | os.PathLike[str]) -> Path:
    """On this machine the path of what another one's path stands for; any other path as it is."""
    uri = remote_uri(path)
    return Path(path) if uri is None else local_path(uri)


def shown(path: str | os.PathLike[str]) -> str:
    """A path as a user should read it: the URI where it stands for one."""
    return remote_uri(path) or os.fspath(path)


def files_below(folder: Path) -> list[Path]:
    """All files below a folder that a user named, sorted; raises UserError for one such as ``/``, which has too many.

    Links are not followed.
    """
    found = []
    for number, path in enumerate(folder.rglob("*")):
        if number >= _MOST_FILES:
            raise UserError(f"{folder} holds over {_MOST_FILES:,} files; name the folder of one corpus or checkpoint")
        if path.is_file():
            found.append(path)
    return sorted(found)
