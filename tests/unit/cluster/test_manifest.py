"""The RayJob that Kubernetes gets, field by field as KubeRay's definition of it names them."""

import re
from importlib.metadata import version

import pytest
import yaml

from raydistill.cluster.manifest import manifest_text, manifests
from raydistill.cluster.submission import Submission

JOB = {
    "name": "Toy_job",
    "storage": "/shared/runs",
    "scaling": {"num_workers": 2, "use_gpu": False, "data_cpus": 3},
    "stages": {"corpus": {"kind": "binarize"}, "distill": {"kind": "train"}},
}
ON_GPUS = {"num_workers": 4, "use_gpu": True, "cpus_per_worker": 6, "data_cpus": 20}


def documents(job=JOB, **options):
    options = {"image": "me/raydistill:1", "claim": "runs", **options}
    made = manifests(Submission(job, variables={"HF_TOKEN": "x"}), **options)
    return list(yaml.safe_load_all(manifest_text(made)))


def groups(found):
    return {group["groupName"]: group for group in found["spec"]["rayClusterSpec"]["workerGroupSpecs"]}


def test_the_file_has_the_job_and_what_runs_it():
    config_map, ray_job, secret = documents()
    assert (secret["apiVersion"], secret["kind"], secret["stringData"]) == ("v1", "Secret", {"HF_TOKEN": "x"})
    assert (config_map["apiVersion"], config_map["kind"]) == ("v1", "ConfigMap")
    assert (ray_job["apiVersion"], ray_job["kind"]) == ("ray.io/v1", "RayJob")
    assert yaml.safe_load(config_map["data"]["job.yaml"]) == JOB
    assert re.fullmatch("job-toy-job-[0-9a-f]{8}", ray_job["metadata"]["name"])
    assert ray_job["spec"]["entrypoint"] == "raydistill run /etc/raydistill/job.yaml"
    assert ray_job["spec"]["shutdownAfterJobFinishes"] is True
    assert "&" not in manifest_text(manifests(Submission(JOB), image="x", claim="y"))


def test_every_pod_has_image_job_and_storage():
    config_map, ray_job, _ = documents()
    cluster = ray_job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        [container] = pod["containers"]
        assert container["image"] == "me/raydistill:1"
        assert container["resources"]["requests"] == container["resources"]["limits"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts == {"job": "/etc/raydistill", "storage": "/shared/runs"}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["job"]["configMap"]["name"] == config_map["metadata"]["name"]
        assert volumes["storage"]["persistentVolumeClaim"]["claimName"] == "runs"


def test_the_cluster_grows_asks_for_a_token_and_has_a_head_without_work():
    cluster = documents()[1]["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == version("ray")
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    for group in cluster["workerGroupSpecs"]:
        assert 0 == group["minReplicas"] < group["replicas"] <= group["maxReplicas"]


def test_training_has_a_pod_for_each_worker_of_the_largest_stage():
    job = {**JOB, "stages": {**JOB["stages"], "distill": {"kind": "train", "scaling": ON_GPUS}}}
    found = groups(documents(job)[1])
    assert found["training"]["replicas"] == 4
    [container] = found["training"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"cpu": "6", "memory": "24Gi", "nvidia.com/gpu": "1"}
    assert found["data"]["replicas"] == 3
    assert "nvidia.com/gpu" not in str(found["data"])


def test_a_job_on_cpus_asks_for_no_gpu():
    assert "nvidia.com/gpu" not in str(documents())


def test_code_from_elsewhere_goes_into_the_runtime_environment():
    spec = documents(code="https://files.example/raydistill.zip")[1]["spec"]
    environment = yaml.safe_load(spec["runtimeEnvYAML"])
    assert environment["py_modules"] == ["https://files.example/raydistill.zip"]
    assert "HF_TOKEN" not in environment["env_vars"]
    assert spec["entrypoint"].startswith("python -m raydistill run")
    assert "py_modules" not in yaml.safe_load(documents()[1]["spec"]["runtimeEnvYAML"])


def test_a_folder_needs_a_volume_and_an_object_store_none():
    with pytest.raises(ValueError, match=r"storage is '/shared/runs', .* add --claim"):
        documents(claim=None)
    stored = {**JOB, "storage": "s3://bucket/runs"}
    assert "persistentVolumeClaim" not in str(documents(stored, claim=None))
    with pytest.raises(ValueError, match="leave --claim out"):
        documents(stored)


def name_of(job):
    return documents({**JOB, "name": job})[1]["metadata"]["name"]


def test_jobs_whose_names_kubernetes_would_make_one_stay_apart():
    jobs = ["toy-job", "Toy_job", "toy_job", "Toy-Job", "toy-job-", "toy-job_", "2024", "job-2024", "a" * 60, "a" * 61]
    found = [name_of(job) for job in jobs]
    assert found[0] == "toy-job"
    assert len({*found}) == len(jobs)
    assert all(re.fullmatch("[a-z]([a-z0-9-]{,45}[a-z0-9])?", name) for name in found)


def test_words_that_look_like_numbers_stay_words_for_kubectl():
    made = manifests(Submission({**JOB, "description": "1e5"}, variables={"PIN": "1e5"}), image="x", claim="y")
    text = manifest_text(made)
    assert "PIN: '1e5'" in text
    assert "description: '1e5'" in text


def test_a_long_name_is_cut():
    name = documents({**JOB, "name": "a" * 45 + "_-" + "b" * 10})[1]["metadata"]["name"]
    assert len(name) <= 47
    assert not name.endswith("-")
