"""What a job needs of the machines it runs on, and what they have."""

import os

from raydistill.config.sections import ScalingConfig
from raydistill.machine import memory_bytes, physical_cores
from raydistill.user_error import UserError


def required_cpus(scaling: ScalingConfig) -> int:
    """Logical CPUs of a stage with all its workers and the data tasks that feed them, one a worker at least."""
    if is_elastic(scaling):
        return scaling.num_workers * worker_cpus(scaling)
    return scaling.num_workers * scaling.cpus_per_worker + max(scaling.data_cpus, scaling.num_workers)


def least_cpus(scaling: ScalingConfig) -> int:
    """Logical CPUs without which a stage cannot run: all, or those of its fewest workers."""
    return scaling.fewest_workers * worker_cpus(scaling) if is_elastic(scaling) else required_cpus(scaling)


def is_elastic(scaling: ScalingConfig) -> bool:
    """Whether the number of workers may change while they train."""
    return scaling.fewest_workers < scaling.num_workers


def worker_cpus(scaling: ScalingConfig) -> int:
    """Logical CPUs that Ray reserves for a worker.

    Where their number may change Ray starts as many workers as there is room for, which would leave none for the data
    tasks: each worker then reserves those of the tasks that feed it, too.
    """
    return scaling.cpus_per_worker + (scaling.data_cpus_per_worker if is_elastic(scaling) else 0)


def data_task_cpus(scaling: ScalingConfig) -> int:
    """Logical CPUs that a data task asks for itself, 0 where its worker has reserved them."""
    return 0 if is_elastic(scaling) else 1


def threads_per_worker(scaling: ScalingConfig, *, parallel: int = 1) -> int:
    """Threads for a worker's arithmetic: what it reserves on a cluster, its share of the cores on one machine.

    ``parallel`` is the number of trainings that share the machine.
    """
    if os.environ.get("RAY_ADDRESS"):
        return scaling.cpus_per_worker
    return max(scaling.cpus_per_worker, physical_cores() // (scaling.num_workers * parallel), 1)


def capacity(scaling: ScalingConfig) -> int:
    """How many runs of this scaling the connected cluster has room for at one time, at least 1."""
    import ray

    total = ray.cluster_resources()
    room = int(total.get("CPU", 0)) // required_cpus(scaling)
    if scaling.use_gpu:
        room = min(room, int(total.get("GPU", 0)) // scaling.num_workers)
    return max(1, room)


def memory_per_worker(scaling: ScalingConfig) -> float | None:
    """Bytes of memory that this machine has for each worker, of a GPU's or its own; None for workers elsewhere."""
    import torch

    if os.environ.get("RAY_ADDRESS"):
        return None
    if scaling.use_gpu:
        return float(torch.cuda.get_device_properties(0).total_memory) if torch.cuda.is_available() else None
    return memory_bytes() / scaling.num_workers


def check_resources(scaling: ScalingConfig) -> None:
    """Refuse what the machine, or the cluster when connected, can never give; Ray would wait for it for ever.

    A local cluster is started with as many logical CPUs as a job asks for, so only GPUs can be missing there. One
    that grows by itself counts with all the nodes that it may start, and one that is not connected yet is not asked.
    Raises ValueError naming key, value and remedy.
    """
    available = _available_resources()
    gpus, cpus = available.get("GPU"), available.get("CPU")
    key = "min_workers" if is_elastic(scaling) else "num_workers"
    if scaling.use_gpu and gpus is not None and scaling.fewest_workers > gpus:
        raise UserError(
            f"scaling.{key} is {scaling.fewest_workers} with use_gpu, but there are {gpus:.0f} GPUs; "
            "lower it or set scaling.use_gpu=false"
        )
    if cpus is not None and least_cpus(scaling) > cpus:
        raise UserError(
            f"scaling needs {least_cpus(scaling)} CPUs for {scaling.fewest_workers} workers and their data tasks, "
            f"but the cluster has {cpus:.0f}; lower scaling.{key} or scaling.cpus_per_worker"
        )


def _available_resources() -> dict[str, float]:
    """Of the cluster when connected; of this machine its GPUs alone; of a cluster to be joined nothing is known."""
    import ray
    import torch

    if ray.is_initialized():
        return {"GPU": 0.0, **ray.cluster_resources(), **_most_of_autoscaler()}
    return {} if os.environ.get("RAY_ADDRESS") else {"GPU": float(torch.cuda.device_count())}


def _most_of_autoscaler() -> dict[str, float]:
    """CPUs and GPUs of a cluster with all nodes that its autoscaler may start; empty where none told."""
    from ray._private.state import state

    most = state.get_max_resources_from_cluster_config() or {}
    return {name: float(most[name]) for name in ("CPU", "GPU") if name in most}
