"""Jobs made of a search: what its trials share and need, and the best configuration as a job file."""

from collections.abc import Mapping
from typing import Any

import yaml

from raydistill.job.load import Job, load_job
from raydistill.search.config import SearchConfig
from raydistill.search.results import CampaignResult, Trial
from raydistill.search.spaces import job_data, job_of

CAMPAIGN_TAG = "campaign"
"""Version tag of a student that a best job registers: the campaign's name."""


def inputs(job: Job) -> dict[str, set[str]]:
    """For each stage of a job the stages that it reads."""
    found: dict[str, set[str]] = {name: set() for name in job.config.stages}
    for run in job.runs.values():
        found[run.base] |= {job.runs[name].base for names in run.inputs.values() for name in names}
    return found


def needed(reads: Mapping[str, set[str]], stage: str) -> set[str]:
    """A stage and all that it reads, directly or not."""
    found = {stage}
    for name in reads[stage]:
        found |= needed(reads, name)
    return found


def with_users(reads: Mapping[str, set[str]], stage: str) -> set[str]:
    """A stage, the stages that read it, directly or not, and all that these need."""
    users = [name for name in reads if stage in needed(reads, name)]
    return set().union(*(needed(reads, name) for name in users))


def trial_job(search: SearchConfig, values: Mapping[str, Any]) -> Job:
    """The job of a trial: the searched stage with these values and what it needs; raises UserError."""
    return load_job(trial_data(search, values, job_of(search, values)))


def trial_data(search: SearchConfig, values: Mapping[str, Any], whole: Job) -> dict[str, Any]:
    """Plain data of ``trial_job``, given the job with all stages."""
    return _with_stages(job_data(search, values), needed(inputs(whole), search.stage))


def best_job_data(search: SearchConfig, values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data of a job of its own name: the searched stage with these values, what it needs, and what reads it.

    The students that it registers are tagged with the campaign's name. Raises UserError.
    """
    stages = with_users(inputs(job_of(search, values)), search.stage)
    raw = _with_stages(job_data(search, values), stages)
    raw["name"] = f"{search.name}-best"
    raw["description"] = f"The best configuration that campaign {search.name} found"
    for stage in raw["stages"].values():
        if stage["kind"] == "register":
            stage["tags"] = {**(stage.get("tags") or {}), CAMPAIGN_TAG: search.name}
    return raw


def best_job_text(search: SearchConfig, result: CampaignResult, best: Trial) -> str:
    """The best trial as a job file that ``raydistill run`` takes."""
    finished = sum(trial.state == "finished" for trial in result.trials)
    head = [
        f"The best of {len(result.trials)} trials ({finished} finished) of campaign {search.name}:",
        f"trial {best.number}, {search.metric} {best.metric!r} after {best.steps} steps.",
        *(f"  {key}: {value}" for key, value in best.overrides.items()),
        *(f"  {line}" for line in best.course_lines()),
        _remark(best),
    ]
    body = yaml.safe_dump(best_job_data(search, best.overrides), sort_keys=False, width=120, allow_unicode=True)
    return "".join(f"# {line}\n" for line in head) + body


def _remark(best: Trial) -> str:
    if best.origin:
        return "It went on from other trials; with its last values alone, as below, another student is made."
    return "All that it needs is below; raydistill run FILE makes that student again."


def _with_stages(raw: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    """The job with these stages alone, in their order."""
    return {**raw, "stages": {name: stage for name, stage in raw["stages"].items() if name in names}}
