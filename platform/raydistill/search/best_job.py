"""The best configuration of a search as a job file."""

from collections.abc import Mapping
from typing import Any

from raydistill.config.yaml_text import dump
from raydistill.job.graph import with_readers
from raydistill.job.load import load_job
from raydistill.search.config import SearchConfig
from raydistill.search.results import TRIALS, CampaignResult, Trial
from raydistill.search.spaces import job_data

CAMPAIGN_TAG = "campaign"
"""Version tag of a student that a best job registers: the campaign's name."""


def best_job_data(search: SearchConfig, values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data of a job of its own name: the searched stage with these values, what it needs, and what reads it.

    It reuses what the campaign and its base job made; students that it registers are tagged with the campaign's name.
    Raises ValueError as ``load_job`` does.
    """
    raw = job_data(search, values)
    job = load_job(raw)
    names = with_readers(job, search.stage)
    stages = {name: dict(stage) for name, stage in raw["stages"].items() if name in names}
    for stage in stages.values():
        if stage["kind"] == "register":
            stage["tags"] = {**(stage.get("tags") or {}), CAMPAIGN_TAG: search.name}
    description = f"The best configuration that campaign {search.name} found"
    storage = job.config.storage.rstrip("/")
    reuse = [f"{storage}/{search.name}/{TRIALS}", f"{storage}/{job.name}", *job.config.reuse]
    return {**raw, "name": best_name(search), "description": description, "reuse": reuse, "stages": stages}


def best_name(search: SearchConfig) -> str:
    """The name of a campaign's best job."""
    return f"{search.name}-best"


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
    return "".join(f"# {line}\n" for line in head) + dump(best_job_data(search, best.overrides))


def _remark(best: Trial) -> str:
    if best.origin:
        return "It went on from other trials; with its last values alone, as below, another student is made."
    return "raydistill run FILE goes on from its student, or makes that again where it is gone: all it needs is below."
