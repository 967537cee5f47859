"""What a user hears of workers that end before their training does."""

from collections.abc import Mapping

from ray.exceptions import RayActorError

from raydistill.cluster.resources import is_elastic
from raydistill.config.sections import ScalingConfig


def loss_note(failures: Mapping[int, Exception], scaling: ScalingConfig) -> str:
    """What failed, by rank, and how a training goes on that has a restart left."""
    lost = sorted(rank for rank, failure in failures.items() if _is_lost(failure))
    what = "is lost" if lost else "failed"
    goes_on = is_elastic(scaling) and scaling.on_worker_failure == "continue"
    how = "as many workers as there is room for" if goes_on else "as many workers as before, once there is room"
    ranks = ", ".join(map(str, lost or sorted(failures)))
    return f"worker {ranks} {what}; a restart goes on from the latest checkpoint with {how}"


def _is_lost(failure: Exception) -> bool:
    """Whether a worker's process or machine is gone, of which Ray Train hears when it asks how it does."""
    return isinstance(getattr(failure, "health_check_failure", failure), RayActorError)
