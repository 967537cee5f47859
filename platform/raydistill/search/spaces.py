"""From a space file to a validated search, and from values of its keys to a job."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raydistill.config import overrides, yaml_text
from raydistill.config.errors import error_lines
from raydistill.job import files
from raydistill.job.graph import needed, only
from raydistill.job.load import Job, JobConfig, accepts, load_job
from raydistill.search.config import SearchConfig
from raydistill.user_error import UserError, placed

_BY_DOTTED_KEY = ("overrides", "space")
"""Sections whose keys have dots themselves."""


def load_search(reference: str, assignments: Sequence[str] = ()) -> SearchConfig:
    """The search of a space file, or of a shipped space, with ``key=value`` assignments.

    A key of the space file (``budget.trials=6``, ``space.method.temperature={uniform: [1, 4]}``) varies it; any other
    is a key of the job and joins ``overrides``. A job that the file names lies beside it, or below the current folder,
    or is a shipped one. Raises UserError, one line a mistake.
    """
    try:
        raw = with_assignments(files.read_space(reference), overrides.parse(assignments))
        if isinstance(raw.get("job"), str):
            raw["job"] = _beside(reference, raw["job"])
        return SearchConfig.model_validate(raw)
    except ValidationError as error:
        raise UserError(error_lines(error), place=reference) from None


def with_assignments(raw: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a space file's plain data with values written into it; raises ValueError for a path into a value."""
    result: dict[str, Any] = yaml_text.plain_copy(dict(raw))
    for key, value in values.items():
        section, _, rest = key.partition(".")
        if section in _BY_DOTTED_KEY and rest:
            path = [section, rest]
        elif section in SearchConfig.model_fields:
            path = key.split(".")
        else:
            path = ["overrides", key]
        overrides.set_value(result, path, value)
    return result


def job_data(search: SearchConfig, values: Mapping[str, Any] = {}) -> dict[str, Any]:
    """Plain data of the base job with the search's overrides and then ``values`` of searched keys.

    It has the search's storage, and its stage the search's resources, where the search names them.
    Raises ValueError for a key that the job does not have.
    """
    raw = files.read_job(search.job)
    for section, given in (("overrides", search.overrides), ("space", values)):
        with placed(section):
            raw = with_values(raw, search.stage, given)
    if search.storage is not None:
        raw["storage"] = search.storage
    if search.resources is not None:
        scaling = search.resources.model_dump(mode="json")
        overrides.set_value(raw, ["stages", search.stage, "scaling"], scaling)
    return raw


def job_of(search: SearchConfig, values: Mapping[str, Any] = {}) -> Job:
    """The validated job of ``job_data``; raises UserError, one line a mistake."""
    return load_job(job_data(search, values))


def with_values(raw: Mapping[str, Any], stage: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a job's plain data with values of keys, searched ones as ``locate`` finds them; raises as that does."""
    result: dict[str, Any] = yaml_text.plain_copy(dict(raw))
    for key, value in values.items():
        overrides.set_value(result, locate(result, stage, key), yaml_text.plain_copy(value))
    return result


def trial_job(raw: Mapping[str, Any], stage: str, values: Mapping[str, Any]) -> Job:
    """The job of a trial: the searched stage with these values and what it needs; raises UserError.

    ``raw`` is ``job_data`` of the search.
    """
    job = load_job(with_values(raw, stage, values))
    return only(job, needed(job, stage))


def locate(raw: Mapping[str, Any], stage: str, key: str) -> list[str]:
    """The full path of a key in a job's plain data: in the searched stage, else as overrides of a job find it.

    Raises ValueError for a key that no place or several places could take.
    """
    path, stages = key.split("."), raw.get("stages") or {}
    takes = accepts(raw)
    if path[0] not in JobConfig.model_fields and path[0] not in stages and stage in stages and takes(stage, path):
        return ["stages", stage, *path]
    return overrides.locate(raw, key, top_level=JobConfig.model_fields, accepts=takes)


def _beside(reference: str, job: str) -> str:
    """The job that a space file names, beside the file where it is there."""
    space = Path(os.path.expanduser(reference))
    if re.search(r"\.ya?ml$", job) and space.is_file() and not Path(job).is_file():
        beside = space.parent / job
        return str(beside) if beside.is_file() else job
    return job
