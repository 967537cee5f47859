"""Files that come with the package: jobs and search spaces, found by name or by path."""

import os
import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from raydistill.config import yaml_text
from raydistill.discovery import unknown_choice
from raydistill.job.plugin_files import with_texts
from raydistill.user_error import UserError, placed

JOBS = "_jobs"
"""Package folder of the jobs; in the repository it is a link to ``jobs/``."""
SPACES = "_tune_spaces"
"""Package folder of the search spaces; in the repository it is a link to ``tune_spaces/``."""

SPACE_PREFIX = "spaces/"
"""Before a shipped space's name where a job may have it too."""

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
    return " ".join(yaml_text.text_of(shipped_text(folder, name), "description").split())


def job_text(reference: str) -> str:
    """The text of a job, given a file's path or the name of a shipped job; a file wins over a name.

    Raises ValueError when there is neither, or when the file cannot be read as text.
    """
    return _text(reference, JOBS, "job")


def read_job(reference: str) -> dict[str, Any]:
    """The plain data of a job, given as in ``job_text``, with the content of its plug-ins.

    Raises ValueError with the line of a syntax error, and for a plug-in that cannot be read.
    """
    raw = yaml_text.parse_mapping(job_text(reference), source=reference)
    with placed(reference):
        return with_texts(raw, folder=Path(os.path.expanduser(reference)).parent)


def space_text(reference: str) -> str:
    """The text of a search space, given a file's path or a shipped space's name, alone or after ``spaces/``.

    Raises ValueError as ``job_text`` does.
    """
    if os.path.isfile(os.path.expanduser(reference)):
        return _text(reference, SPACES, "space")
    return _text(reference.removeprefix(SPACE_PREFIX), SPACES, "space")


def read_space(reference: str) -> dict[str, Any]:
    """The plain data of a search space, given as in ``space_text``; raises ValueError with the line of an error."""
    return yaml_text.parse_mapping(space_text(reference), source=reference)


def is_space(reference: str) -> bool:
    """Whether a file is a search space rather than a job, or a name is that of a shipped space and of no job."""
    path = Path(os.path.expanduser(reference))
    if os.path.isfile(path):
        return re.search(r"^space\s*:", _read(path), re.MULTILINE) is not None
    if reference.startswith(SPACE_PREFIX):
        return True
    return reference in names(SPACES) and reference not in names(JOBS)


def _text(reference: str, folder: str, kind: str) -> str:
    path = Path(os.path.expanduser(reference))
    # Unlike those of a path, these take a name that is too long for one that is not there.
    if os.path.isfile(path):
        return _read(path)
    choices = names(folder)
    if reference in choices:
        return shipped_text(folder, reference)
    if os.path.isdir(path):
        raise UserError(f"{reference} is a folder; give the path of a {kind} file in it")
    if re.search(r"\.ya?ml$", reference):
        raise UserError(f"{reference} does not exist; give a {kind} file, or one of these names: {', '.join(choices)}")
    raise UserError(unknown_choice(f"the {kind}", reference, choices) + ", or the path of a file")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check its permissions") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; give a job file") from None
