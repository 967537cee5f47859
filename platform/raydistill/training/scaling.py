"""How many workers Ray Train starts, what each of them holds, and what a user hears of those that it loses."""

from collections.abc import Iterable, Mapping
from typing import Any

import ray
from ray.train import ScalingConfig as RayScalingConfig
from ray.train import UserCallback

from raydistill.cluster.resources import is_elastic, worker_cpus
from raydistill.config.sections import ScalingConfig
from raydistill.training.lost_workers import loss_note
from raydistill.training.progress import Record


def ray_scaling(scaling: ScalingConfig) -> RayScalingConfig:
    """Ray Train's form of a scaling section; with ``on_worker_failure: wait`` it looks at what the cluster has now."""
    resources: dict[str, Any] = {"CPU": worker_cpus(scaling)}
    if scaling.use_gpu:
        resources["GPU"] = 1
    workers = _workers(scaling, resources)
    return RayScalingConfig(num_workers=workers, use_gpu=scaling.use_gpu, resources_per_worker=resources)


def _workers(scaling: ScalingConfig, resources: Mapping[str, float]) -> int | tuple[int, int]:
    """A number of workers, which Ray Train starts again only once there is room for all of them, or a range of it."""
    fewest, most = scaling.fewest_workers, scaling.num_workers
    if not is_elastic(scaling):
        return most
    if scaling.on_worker_failure == "continue":
        return fewest, most
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return max(fewest, min(most, room(nodes, resources)))


def room(nodes: Iterable[Mapping[str, float]], resources: Mapping[str, float]) -> int:
    """How many workers of these resources fit on nodes that have those."""
    return sum(min(int(node.get(name, 0) // amount) for name, amount in resources.items()) for node in nodes)


class LossNotes(UserCallback):
    """Tells a board of workers that end before the training does; Ray Train's controller calls it."""

    def __init__(self, board: Any, scaling: ScalingConfig) -> None:
        self._board = board
        self._scaling = scaling

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Post one line of what happened and of what comes next."""
        self._board.post.remote(Record(0, 0, {}, 0.0, note=loss_note(worker_exceptions, self._scaling)))
