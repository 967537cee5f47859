"""The machines that a job runs on: what they have, joining them, and handing jobs to them."""

from raydistill.cluster.joining import connection
from raydistill.cluster.places import machine_problems
from raydistill.cluster.resources import (
    capacity,
    check_resources,
    memory_per_worker,
    required_cpus,
    threads_per_worker,
)
from raydistill.machine import physical_cores

__all__ = [
    "capacity",
    "check_resources",
    "connection",
    "machine_problems",
    "memory_per_worker",
    "physical_cores",
    "required_cpus",
    "threads_per_worker",
]
