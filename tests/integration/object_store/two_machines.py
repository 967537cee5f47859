"""Runs a job file as two machines with no common disk would: the driver has one cache folder, all workers another.

Arguments: the job file, the driver's cache folder, the workers'. The last line printed is the result as JSON.
"""

import json
import os
import sys
from pathlib import Path

import ray

from raydistill.environment import keep_quiet
from raydistill.job import files
from raydistill.job.load import load_job
from raydistill.job.preflight import check_job
from raydistill.job.run import run_job
from raydistill.job.summary import as_data


def main(job_file: str, driver: str, workers: str) -> None:
    """Run the job on a cluster of 3 CPUs."""
    keep_quiet()
    os.environ["RAYDISTILL_CACHE"] = workers
    ray.init(address="local", num_cpus=3, object_store_memory=200_000_000, include_dashboard=False, log_to_driver=False)
    os.environ["RAYDISTILL_CACHE"] = driver
    job = load_job(files.read_job(job_file))
    check_job(job)
    result = run_job(job, echo=lambda line: print(line, flush=True))  # noqa: T201
    print(json.dumps(as_data(job, result)), flush=True)  # noqa: T201
    assert Path(workers).is_dir()
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
