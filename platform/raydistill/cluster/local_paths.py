"""Places on this machine that a job names: a cluster does not see them."""

import glob
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydistill.store_paths import files_below

_KEYS = frozenset(
    {"path", "checkpoint", "corpus", "teacher_outputs", "model", "dropout_scores_file", "top_k_file", "token_counts"}
    | {"tokenizer", "teacher_tokenizers", "teachers", "models", "members"}
)
"""Keys whose values may be files or folders; those of the second line are strings in a matrix alone."""


@dataclass(frozen=True)
class LocalPath:
    """A value of a job that names files of this machine."""

    keys: tuple[str | int, ...]
    """Where it stands in the job's plain data."""
    value: str
    """As it is written."""
    files: tuple[Path, ...]
    """The files that it means, absolute, sorted."""

    @property
    def key(self) -> str:
        """Its place as a dotted key."""
        return ".".join(map(str, self.keys))

    @property
    def num_bytes(self) -> int:
        """Size of the files together."""
        return sum(file.stat().st_size for file in self.files)

    @property
    def root(self) -> Path:
        """The folder that the value is or searches, or the one in which the file lies, absolute."""
        path = Path(os.path.expanduser(self.value))
        fixed = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
        return (path.parent if path.is_file() else fixed).absolute()


def local_paths(job: Mapping[str, Any], *, shared: Sequence[Path] = ()) -> list[LocalPath]:
    """The files and folders that a job's plain data names, that are here, and that lie below none of ``shared``.

    What names an earlier stage, a URI, a registered model or nothing that is here, such as a model of the hub, is none.
    """
    stages = job.get("stages", {})
    found = []
    for keys, value in _candidates(stages, ("stages",)):
        if "://" in value or value.startswith("models:/") or _stage(value) in stages:
            continue
        files = _files(value, is_pattern=keys[-1] == "path")
        if files and not any(file.is_relative_to(folder) for folder in shared for file in files[:1]):
            found.append(LocalPath(keys, value, files))
    return found


def replaced(job: Mapping[str, Any], values: Mapping[tuple[str | int, ...], str]) -> dict[str, Any]:
    """A copy of a job's plain data with other values at the places that the keys name."""

    def copied(value: Any, keys: tuple[str | int, ...]) -> Any:
        if keys in values:
            return values[keys]
        if isinstance(value, Mapping):
            return {key: copied(each, (*keys, key)) for key, each in value.items()}
        if isinstance(value, list):
            return [copied(each, (*keys, number)) for number, each in enumerate(value)]
        return value

    return {key: copied(value, (key,)) for key, value in job.items()}


def _candidates(value: Any, keys: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Every string that stands at one of the keys, or in a list there; members of a package are none."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            if not (key == "path" and value.get("package")):
                yield from _candidates(each, (*keys, key))
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _candidates(each, (*keys, number))
    elif isinstance(value, str) and value and _last_name(keys) in _KEYS:
        yield keys, value


def _last_name(keys: Sequence[str | int]) -> str:
    """The last key that is no number of a list; a matrix has dotted ones."""
    names = [part for key in keys if isinstance(key, str) for part in key.split(".") if not part.isdecimal()]
    return names[-1]


def _stage(reference: str) -> str:
    return reference.partition("@")[0].partition("[")[0]


def _files(value: str, *, is_pattern: bool) -> tuple[Path, ...]:
    path = Path(os.path.expanduser(value))
    if path.is_dir():
        found = files_below(path)
    elif path.is_file():
        found = [path]
    else:
        matches = map(Path, glob.iglob(str(path), recursive=True)) if is_pattern else iter(())
        found = [each for each in matches if each.is_file()]
    return tuple(sorted(each.absolute() for each in found))
