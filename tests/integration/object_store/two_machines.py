"""Runs a job file as two machines with no common disk would: the driver has one cache folder, all workers another.

Arguments: ``kept`` or ``cluster``, whether trainings run in a process that the job keeps or, as on a cluster, in groups
of Ray Train; the driver's cache folder, the workers', and job files, which run one after another. For each of them a
line is printed that is its result as JSON.
"""

import json
import os
import sys

import ray

from raydistill.environment import keep_quiet
from raydistill.job import files
from raydistill.job.load import load_job
from raydistill.job.preflight import check_job
from raydistill.job.run import run_job
from raydistill.job.summary import as_data


def main(kind: str, driver: str, workers: str, *job_files: str) -> None:
    """Run the jobs on a cluster of 4 CPUs."""
    keep_quiet()
    os.environ["RAYDISTILL_CACHE"] = workers
    ray.init(address="local", num_cpus=4, object_store_memory=200_000_000, include_dashboard=False, log_to_driver=False)
    os.environ["RAYDISTILL_CACHE"] = driver
    if kind == "cluster":
        os.environ["RAY_ADDRESS"] = "auto"
    for job_file in job_files:
        job = load_job(files.read_job(job_file))
        check_job(job)
        result = run_job(job, echo=lambda line: print(line, flush=True))  # noqa: T201
        print(json.dumps(as_data(job, result)), flush=True)  # noqa: T201
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
