"""How many workers Ray Train is asked for, what they reserve, and what is told when it loses some."""

from typing import Any

import pytest
import ray
from pydantic import ValidationError
from ray._private.state import state
from ray.exceptions import RayActorError

from raydistill import cluster
from raydistill.cluster.resources import data_task_cpus, worker_cpus
from raydistill.config.sections import ScalingConfig
from raydistill.training.lost_workers import loss_note
from raydistill.training.scaling import ray_scaling, room

ELASTIC = {"num_workers": 4, "min_workers": 2, "cpus_per_worker": 3, "data_cpus": 8}


class HealthCheckError(Exception):
    """Stands where Ray Train's own stands, which holds what came of asking a worker."""

    def __init__(self, failure: Exception) -> None:
        super().__init__("asked in vain")
        self.health_check_failure = failure


def with_nodes(monkeypatch: pytest.MonkeyPatch, *cpus: float) -> None:
    nodes: list[dict[str, Any]] = [{"Alive": True, "Resources": {"CPU": count}} for count in cpus]
    monkeypatch.setattr(ray, "nodes", lambda: [*nodes, {"Alive": False, "Resources": {"CPU": 100.0}}])


def test_a_fixed_number_of_workers_stays_fixed() -> None:
    scaling = ScalingConfig(num_workers=4, cpus_per_worker=3, data_cpus=8)
    found = ray_scaling(scaling)
    assert (found.num_workers, found.resources_per_worker) == (4, {"CPU": 3})
    assert data_task_cpus(scaling) == 1


def test_workers_of_a_changing_number_reserve_the_cpus_of_the_tasks_that_feed_them() -> None:
    scaling = ScalingConfig(**ELASTIC)
    found = ray_scaling(scaling)
    assert (found.num_workers, found.resources_per_worker) == ((2, 4), {"CPU": 5})
    assert worker_cpus(scaling) == 5
    assert data_task_cpus(scaling) == 0
    assert cluster.required_cpus(scaling) == 20


def test_as_many_as_there_may_be_at_least_is_a_fixed_number() -> None:
    scaling = ScalingConfig(num_workers=2, min_workers=2)
    assert ray_scaling(scaling).num_workers == 2
    assert worker_cpus(scaling) == 1


@pytest.mark.parametrize(("cpus", "expected"), [((5.0, 9.0), 2), ((5.0, 10.0), 3), ((50.0,), 4), ((4.0,), 2)])
def test_a_training_that_waits_starts_with_what_living_nodes_hold(
    monkeypatch: pytest.MonkeyPatch, cpus: tuple[float, ...], expected: int
) -> None:
    with_nodes(monkeypatch, *cpus)
    assert ray_scaling(ScalingConfig(**ELASTIC, on_worker_failure="wait")).num_workers == expected


def test_a_node_holds_as_many_workers_as_its_scarcest_resource() -> None:
    nodes = [{"CPU": 9.0, "GPU": 1.0}, {"CPU": 4.0, "GPU": 8.0}, {"CPU": 64.0}]
    assert room(nodes, {"CPU": 2, "GPU": 1}) == 1 + 2 + 0


def test_a_cluster_with_room_for_the_fewest_workers_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 10.0, "GPU": 2.0})
    monkeypatch.setattr(state, "get_max_resources_from_cluster_config", lambda: None)
    cluster.check_resources(ScalingConfig(**ELASTIC))
    cluster.check_resources(ScalingConfig(**ELASTIC, use_gpu=True))
    with pytest.raises(ValueError, match=r"needs 15 CPUs for 3 workers .* has 10; lower scaling\.min_workers"):
        cluster.check_resources(ScalingConfig(**{**ELASTIC, "min_workers": 3}))
    with pytest.raises(ValueError, match=r"scaling\.min_workers is 3 with use_gpu, but there are 2 GPUs"):
        cluster.check_resources(ScalingConfig(num_workers=4, min_workers=3, use_gpu=True))


def test_more_at_least_than_at_most_is_refused() -> None:
    with pytest.raises(ValidationError, match="min_workers is 3, but num_workers only 2; lower it"):
        ScalingConfig(num_workers=2, min_workers=3)


@pytest.mark.parametrize(
    ("failures", "changes", "expected"),
    [
        (
            {0: RuntimeError("closed by peer"), 1: HealthCheckError(RayActorError())},
            {"min_workers": 1},
            "worker 1 is lost; a restart goes on from the latest checkpoint with as many workers as there is room for",
        ),
        (
            {1: HealthCheckError(RayActorError())},
            {"min_workers": 1, "on_worker_failure": "wait"},
            "worker 1 is lost; a restart goes on from the latest checkpoint with as many workers as before, once there "
            "is room",
        ),
        (
            {1: RuntimeError("a"), 0: HealthCheckError(TimeoutError("b"))},
            {},
            "worker 0, 1 failed; a restart goes on from the latest checkpoint with as many workers as before, once "
            "there is room",
        ),
    ],
)
def test_a_note_tells_which_worker_is_lost_and_with_how_many_it_goes_on(
    failures: dict[int, Exception], changes: dict[str, Any], expected: str
) -> None:
    assert loss_note(failures, ScalingConfig(num_workers=2, **changes)) == expected
