"""Which processes of Ray are not started for a job on this machine."""

import pytest
import ray
from ray._private.node import Node

from raydistill.cluster import local_ray

NEEDLESS = ("start_api_server", "start_monitor", "start_log_monitor")


@pytest.mark.parametrize("name", NEEDLESS)
def test_processes_that_serve_others_are_left_out_of_this_start_alone(monkeypatch, name):
    usual = getattr(Node, name)
    during = []

    def init(**arguments):
        during.append((arguments, getattr(Node, name)(object(), include_dashboard=False)))

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(Node, name, lambda *_: pytest.fail("it would be started"))
    replaced = getattr(Node, name)
    local_ray.start(num_cpus=2)
    assert during == [({"num_cpus": 2}, None)]
    assert getattr(Node, name) is replaced is not usual


def test_they_are_back_when_ray_cannot_start(monkeypatch):
    usual = {name: getattr(Node, name) for name in NEEDLESS}
    monkeypatch.setattr(ray, "init", lambda **_: (_ for _ in ()).throw(OSError("no place")))
    with pytest.raises(OSError, match="no place"):
        local_ray.start()
    assert {name: getattr(Node, name) for name in NEEDLESS} == usual


def test_a_release_of_ray_without_one_of_them_starts_as_it_does(monkeypatch):
    monkeypatch.delattr(Node, "start_monitor")
    started = []
    monkeypatch.setattr(ray, "init", lambda **_: started.append(hasattr(Node, "start_monitor")))
    local_ray.start()
    assert started == [False]
