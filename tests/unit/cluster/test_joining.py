"""What a driver asks Ray for when it joins a cluster."""

import importlib
import json
import os
import sys

import pytest
import ray
from ray._private import auto_init_hook

from raydistill.cluster import local_ray
from raydistill.cluster.joining import _runtime_environment, connection
from raydistill.environment import quiet_variables
from raydistill.user_error import UserError


def submitted_with(monkeypatch, runtime_env):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": runtime_env, "metadata": {}}))


def test_a_driver_that_was_not_submitted_ships_the_package(monkeypatch):
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    asked = _runtime_environment()
    assert [path.rpartition("/")[2] for path in asked["py_modules"]] == ["raydistill"]
    assert asked["env_vars"] == quiet_variables()


def test_a_submitted_driver_asks_for_nothing_that_its_submission_has(monkeypatch):
    given = {"py_modules": ["gcs://package.zip"], "env_vars": {"DO_NOT_TRACK": "1", "MINE": "2"}}
    submitted_with(monkeypatch, given)
    asked = _runtime_environment()
    assert "py_modules" not in asked
    assert asked["env_vars"].keys() == quiet_variables().keys() - {"DO_NOT_TRACK"}


def test_ray_merges_what_the_submission_and_the_driver_ask_for(monkeypatch):
    from ray.runtime_env.runtime_env import _merge_runtime_env

    given = {"py_modules": ["gcs://package.zip"], "env_vars": quiet_variables() | {"MINE": "2"}}
    submitted_with(monkeypatch, given)
    assert _merge_runtime_env(given, _runtime_environment()) == given


def test_a_submission_without_the_package_gets_it_from_the_driver(monkeypatch):
    submitted_with(monkeypatch, {"working_dir": "gcs://job.zip"})
    assert _runtime_environment().keys() == {"py_modules", "env_vars"}


def test_workers_of_a_job_with_variables_load_them_when_they_start(monkeypatch, tmp_path):
    submitted_with(monkeypatch, {"working_dir": "gcs://job.zip", "py_modules": ["gcs://package.zip"]})
    monkeypatch.chdir(tmp_path)
    assert "worker_process_setup_hook" not in _runtime_environment()
    (tmp_path / "variables.json").write_text('{"RAYDISTILL_TEST_SECRET": "x"}')
    asked = _runtime_environment()
    assert "RAYDISTILL_TEST_SECRET" not in str(asked)
    module, _, name = asked["worker_process_setup_hook"].rpartition(".")
    monkeypatch.setenv("RAYDISTILL_TEST_SECRET", "")
    getattr(importlib.import_module(module), name)()
    assert os.environ["RAYDISTILL_TEST_SECRET"] == "x"


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_on_another_system_than_linux_nothing_is_started(monkeypatch, system):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was started"))
    with pytest.raises(UserError, match=f"jobs run on Linux, and this machine's system is {system}"), connection([]):
        pass


def test_after_ctrl_c_no_thread_starts_another_cluster(monkeypatch):
    started = []
    monkeypatch.setattr(auto_init_hook, "enable_auto_connect", True)
    monkeypatch.setattr(local_ray, "start", lambda **_: None)
    for name, stub in {
        "is_initialized": lambda: False,
        "shutdown": lambda: None,
        "init": lambda: started.append(True),
    }.items():
        monkeypatch.setattr(ray, name, stub)
    with pytest.raises(KeyboardInterrupt), connection([]):
        raise KeyboardInterrupt
    # What Ray calls before a task, an actor's method, a get and a put.
    auto_init_hook.auto_init_ray()
    assert not started
