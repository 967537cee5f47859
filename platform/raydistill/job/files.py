"""Files that come with the package: jobs and search spaces, found by name or by path."""

import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from raydistill.config import yaml_text
from raydistill.discovery import unknown_choice

JOBS = "_jobs"
"""Package folder of the jobs; in the repository it is a link to ``jobs/``."""
SPACES = "_tune_spaces"
"""Package folder of the search spaces; in the repository it is a link to ``tune_spaces/``."""

_SUFFIX = ".yaml"


def names(folder: str) -> list[str]:
    """Names of the YAML files in a package folder, sorted, those in folders below it as ``folder/name``."""
    return sorted(_names(files("raydistill").joinpath(folder), ""))


def _names(folder: Traversable, prefix: str) -> list[str]:
    found: list[str] = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _names(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(_SUFFIX):
            found.append(prefix + entry.name.removesuffix(_SUFFIX))
    return found


def shipped_text(folder: str, name: str) -> str:
    """The content of a file that ``names`` lists."""
    return files("raydistill").joinpath(folder, *f"{name}{_SUFFIX}".split("/")).read_text(encoding="utf-8")


def description(folder: str, name: str) -> str:
    """The ``description`` that a shipped file gives of itself, on one line."""
    content = yaml_text.parse_mapping(shipped_text(folder, name), source=name)
    return " ".join(str(content.get("description") or "").split())


def job_text(reference: str) -> str:
    """The text of a job, given a file's path or the name of a shipped job; a file wins over a name.

    Raises ValueError when there is neither, or when the file cannot be read as text.
    """
    path = Path(reference).expanduser()
    if path.is_file():
        return _read(path)
    choices = names(JOBS)
    if reference in choices:
        return shipped_text(JOBS, reference)
    if path.is_dir():
        raise ValueError(f"{reference} is a folder; give the path of a job file in it")
    if re.search(r"\.ya?ml$", reference):
        raise ValueError(f"{reference} does not exist; give a job file, or one of these names: {', '.join(choices)}")
    raise ValueError(unknown_choice("the job", reference, choices) + ", or the path of a file")


def read_job(reference: str) -> dict[str, Any]:
    """The plain data of a job, given as in ``job_text``; raises ValueError with the line of a syntax error."""
    return yaml_text.parse_mapping(job_text(reference), source=reference)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); check its permissions") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text; give a job file") from None
