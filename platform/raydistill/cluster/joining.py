"""The Ray cluster that a job runs on: an existing one, or one on this machine for the time of the job."""

import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import raydistill
from raydistill.cluster import local_ray
from raydistill.cluster.places import machine_problems
from raydistill.cluster.resources import check_resources, required_cpus
from raydistill.config.sections import ScalingConfig
from raydistill.credentials import VARIABLES, load_variables
from raydistill.environment import keep_quiet, quiet_variables
from raydistill.machine import physical_cores
from raydistill.user_error import UserError

_OBJECT_STORE_BYTES = 512 * 2**20
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
_SUBMITTED_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Variable, called as it reads, in which Ray's job API tells a driver what it was submitted with."""


@contextmanager
def connection(scalings: Sequence[ScalingConfig], *, whole_machine: bool = False) -> Iterator[None]:
    """Connect to the cluster of ``RAY_ADDRESS``, or start one on this machine, and leave it at the end.

    A started one has as many logical CPUs as the largest of ``scalings`` asks for, and with ``whole_machine`` no
    fewer than the machine has cores, so that several runs fit.
    Raises ValueError when the cluster has too few CPUs or GPUs for any of the scalings, and when this machine has no
    place for the files of one that is started.
    """
    import ray

    keep_quiet()
    os.environ.setdefault("RAY_TRAIN_ENABLE_V2", "1")
    _quieten_libraries()
    joined = ray.is_initialized()
    if not joined:
        check_system()
        problems = machine_problems()
        if problems:
            raise UserError(problems)
        if os.environ.get("RAY_ADDRESS"):
            ray.init(address="auto", runtime_env=_runtime_environment(), **_QUIET)
        else:
            local_ray.start(**_local_arguments(scalings, whole_machine))
    try:
        for scaling in scalings:
            check_resources(scaling)
        yield
    except KeyboardInterrupt:
        # Threads that trained go on until the process ends, and one that found its cluster gone would start another.
        if not joined:
            local_ray.start_none_on_demand()
        raise
    finally:
        if not joined:
            ray.shutdown()


def check_system() -> None:
    """Raise UserError on a system on which DeepSpeed's workers do not run."""
    if sys.platform != "linux":
        raise UserError(
            f"jobs run on Linux, and this machine's system is {sys.platform}; submit the job to a cluster, use WSL 2 "
            "on Windows, or take the methods in Python, which run everywhere"
        )


def _local_arguments(scalings: Sequence[ScalingConfig], whole_machine: bool) -> dict[str, Any]:
    return {
        "address": "local",
        "num_cpus": max([*map(required_cpus, scalings), physical_cores() if whole_machine else 1]),
        "object_store_memory": _OBJECT_STORE_BYTES,
        "include_dashboard": False,
        "runtime_env": {"env_vars": quiet_variables()},
        **_QUIET,
    }


def _runtime_environment() -> dict[str, Any]:
    """What workers get beside what this driver's own submission gave them: Ray refuses a key that stands in both."""
    submitted = json.loads(os.environ.get(_SUBMITTED_JOB, "{}")).get("runtime_env") or {}
    given = submitted.get("env_vars") or {}
    own: dict[str, Any] = {"env_vars": {key: value for key, value in quiet_variables().items() if key not in given}}
    if Path(VARIABLES).is_file():
        own["worker_process_setup_hook"] = f"{load_variables.__module__}.{load_variables.__name__}"
    if "py_modules" not in submitted:
        own["py_modules"] = [str(Path(raydistill.__file__).parent)]
    return own


def _quieten_libraries() -> None:
    """Leave out what libraries tell the driver of their own settings; their errors stay. No more threads than cores."""
    import torch

    torch.set_num_threads(min(torch.get_num_threads(), physical_cores()))
    for name in ("ray.data._internal.progress", "ray.data._internal.execution.streaming_executor"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not torch.cuda.is_available():
        # Otherwise DeepSpeed, which other libraries import too, warns that it found no accelerator.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
