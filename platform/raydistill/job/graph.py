"""Which stages of a job read which, and jobs of some of the stages."""

from collections.abc import Collection
from dataclasses import replace

from raydistill.job.expand import StageRun
from raydistill.job.load import Job
from raydistill.stages._base import stage_of, suffix_of


def named_of(job: Job, run: StageRun) -> set[str]:
    """Suffixes by which the stages of a job refer to a run, such as ``@initial``."""
    references = {reference for other in job.runs.values() for reference in other.stage.references().values()}
    return {suffix_of(one) for one in references if suffix_of(one) and stage_of(one) in (run.base, run.name)}


def needed(job: Job, stage: str) -> set[str]:
    """A stage and all that it reads, directly or not."""
    return _reached(_inputs(job), stage)


def with_readers(job: Job, stage: str) -> set[str]:
    """A stage, the stages that read it, directly or not, and all that these need."""
    reached = {name: _reached(_inputs(job), name) for name in job.config.stages}
    return set().union(*(names for names in reached.values() if stage in names))


def only(job: Job, stages: Collection[str]) -> Job:
    """The job with these stages alone, in their order; all that they read must be among them."""
    config = job.config.model_copy(
        update={"stages": {name: stage for name, stage in job.config.stages.items() if name in stages}}
    )
    return replace(job, config=config, runs={name: run for name, run in job.runs.items() if run.base in stages})


def _inputs(job: Job) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {name: set() for name in job.config.stages}
    for run in job.runs.values():
        found[run.base] |= {job.runs[name].base for names in run.inputs.values() for name in names}
    return found


def _reached(inputs: dict[str, set[str]], stage: str) -> set[str]:
    return {stage}.union(*(_reached(inputs, name) for name in inputs[stage]))
