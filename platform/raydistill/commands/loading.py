"""A job from what stands on a command line."""

from typing import TYPE_CHECKING

from raydistill.job import files
from raydistill.user_error import placed

if TYPE_CHECKING:
    from raydistill.job.load import Job


def load(job: str, assignments: list[str]) -> "Job":
    """The validated job with its overrides; raises UserError."""
    from raydistill.config import overrides

    raw, values = files.read_job(job), overrides.parse(assignments)
    with placed(job):
        from raydistill.job.load import JobConfig, accepts, load_job

        return load_job(overrides.apply(raw, values, top_level=JobConfig.model_fields, accepts=accepts(raw)))
