"""``cluster.yaml`` as Ray's launcher reads it, for a cloud and for machines of one's own."""

import copy
import shlex
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

FILE = Path(__file__).parents[3] / "cluster.yaml"
REPLACED = {"provider", "auth", "available_node_types", "head_node_type"}


def in_a_cloud():
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def on_own_machines():
    """The file with its commented block in place of what that says it replaces."""
    _, _, commented = FILE.read_text(encoding="utf-8").partition("\n#\n")
    block = "".join(line.removeprefix("# ") for line in commented.splitlines(keepends=True))
    kept = {key: value for key, value in in_a_cloud().items() if key not in REPLACED}
    return {**kept, **yaml.safe_load(block)}


@pytest.fixture(params=[in_a_cloud, on_own_machines])
def config(request):
    return request.param()


def test_rays_launcher_takes_the_file(config):
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    assert prepared["head_node_type"] in prepared["available_node_types"]


def test_rays_launcher_would_refuse_a_mistake():
    config = in_a_cloud()
    config["available_node_types"]["data"]["most_workers"] = 3
    with pytest.raises(Exception, match="most_workers"):
        validate_config(prepare_config(config))


def test_every_node_asks_for_the_token(config):
    starting = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    starts = [command for command in starting if "ray start" in command]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in shlex.split(command) for command in starts)
    assert config["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    assert "disabled" not in FILE.read_text(encoding="utf-8")


def test_the_cloud_has_a_head_without_work_cpus_for_data_and_gpus_that_grow_in_number():
    types = in_a_cloud()["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert "GPU" not in types["data"]["resources"]
    assert types["training"]["resources"]["GPU"] == 1
    assert all(types[name]["max_workers"] > types[name]["min_workers"] for name in ("data", "training"))


def test_own_machines_are_all_used():
    [node_type] = prepare_config(on_own_machines())["available_node_types"].values()
    assert (node_type["min_workers"], node_type["max_workers"]) == (3, 3)


def test_the_image_has_the_ray_that_the_tests_run_with():
    constraints = FILE.with_name(".ci").joinpath("constraints.txt").read_text(encoding="utf-8").splitlines()
    [ray] = [line for line in constraints if line.startswith("ray==")]
    assert in_a_cloud()["docker"]["image"].startswith(f"rayproject/ray:{ray.removeprefix('ray==')}-py311")
