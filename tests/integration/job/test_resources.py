"""What a machine or a cluster cannot give is refused before anything waits for it."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray._private.state import state

from raydistill import cluster
from raydistill.config.sections import ScalingConfig
from raydistill.job.load import load_job
from raydistill.job.preflight import check_job
from raydistill.user_error import UserError


def test_cpus_for_workers_and_for_a_data_task_of_each_are_required() -> None:
    assert cluster.required_cpus(ScalingConfig(num_workers=2, cpus_per_worker=3, data_cpus=1)) == 8
    assert cluster.required_cpus(ScalingConfig(num_workers=2, cpus_per_worker=3, data_cpus=5)) == 11


def test_a_cluster_without_cpus_for_the_data_tasks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(state, "get_max_resources_from_cluster_config", lambda: None)
    with pytest.raises(ValueError, match=r"scaling needs 4 CPUs for 2 workers .* the cluster has 2; lower"):
        cluster.check_resources(ScalingConfig(num_workers=2))
    cluster.check_resources(ScalingConfig(num_workers=1))


def test_a_cluster_that_grows_counts_with_the_nodes_it_may_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 1.0})
    most = {"CPU": 32, "GPU": 4}
    monkeypatch.setattr(state, "get_max_resources_from_cluster_config", lambda: most)
    cluster.check_resources(ScalingConfig(num_workers=4, use_gpu=True))
    with pytest.raises(ValueError, match="there are 4 GPUs"):
        cluster.check_resources(ScalingConfig(num_workers=5, use_gpu=True))


def test_gpus_of_a_cluster_are_not_looked_for_on_the_machine_that_will_join_it(monkeypatch: pytest.MonkeyPatch) -> None:
    scaling = ScalingConfig(num_workers=1000, use_gpu=True)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    cluster.check_resources(scaling)
    monkeypatch.delenv("RAY_ADDRESS")
    with pytest.raises(ValueError, match="with use_gpu, but there are"):
        cluster.check_resources(scaling)


def test_more_gpus_than_there_are_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 64.0, "GPU": 2.0})
    monkeypatch.setattr(state, "get_max_resources_from_cluster_config", lambda: None)
    with pytest.raises(ValueError, match=r"scaling\.num_workers is 4 with use_gpu, but there are 2 GPUs"):
        cluster.check_resources(ScalingConfig(num_workers=4, use_gpu=True))
    cluster.check_resources(ScalingConfig(num_workers=2, use_gpu=True))


def test_workers_on_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster.resources, "physical_cores", lambda: 8)
    assert cluster.threads_per_worker(ScalingConfig(num_workers=2)) == 4
    assert cluster.threads_per_worker(ScalingConfig(num_workers=16)) == 1
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert cluster.threads_per_worker(ScalingConfig(num_workers=2, cpus_per_worker=3)) == 3


def test_a_full_disk_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**8))
    stages = {"register": {"kind": "register", "model": "none", "name": "x"}}
    with pytest.raises(UserError, match=r"storage is .* GiB are free; make room"):
        check_job(load_job({"name": "toy", "storage": str(tmp_path), "stages": stages}))
