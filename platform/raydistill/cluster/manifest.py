"""A job as Kubernetes runs it: a RayJob of KubeRay (ray.io/v1) and the ConfigMap that holds the job's file."""

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import PurePosixPath
from typing import Any

import yaml

from raydistill import names
from raydistill.cluster.resources import required_cpus
from raydistill.cluster.submission import JOB_KEY, Submission
from raydistill.config import yaml_text
from raydistill.config.sections import ScalingConfig
from raydistill.environment import quiet_variables
from raydistill.user_error import UserError

_JOB_FOLDER = "/etc/raydistill"
_CPUS_OF_DATA_NODE = 8
_HEAD = {"cpu": "4", "memory": "16Gi"}
_MEMORY_PER_CPU_GIB = 4
_GPU = "nvidia.com/gpu"
_RESOURCE = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")


def manifests(
    submission: Submission, *, image: str, claim: str | None = None, code: str | None = None
) -> list[dict[str, Any]]:
    """A ConfigMap with the job's file, the RayJob that runs it and, where it has variables, a Secret with them.

    ``image`` has raydistill, or all that it needs beside ``code``, the URI of its wheel or zip file; ``claim`` names a
    PersistentVolumeClaim that is the job's storage. Raises ValueError for a storage that no volume keeps.
    """
    storage = str(submission.job["storage"])
    if "://" in storage:
        if claim is not None:
            raise UserError(f"--claim is for a storage that is a folder, but storage is {storage}; leave --claim out")
    elif claim is None:
        raise UserError(
            f"storage is {storage!r}, a folder inside the pods, which is lost with them; add --claim with a volume"
        )
    name = _resource(str(submission.job["name"]))
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{name}-job"},
        "data": {"job.yaml": submission.metadata[JOB_KEY]},
    }
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": f"{name}-env"},
        "stringData": dict(submission.variables),
    }
    return [config_map, _ray_job(submission, name, image, claim, code), *([secret] if submission.variables else [])]


def _resource(job: str) -> str:
    """The job's name where Kubernetes takes it; else a legal one with a hash, which no other job has."""
    # No job's name has a space.
    return names.legal(job if _RESOURCE.fullmatch(job) else f"job {job}", names.RESOURCE)


def manifest_text(documents: Sequence[Mapping[str, Any]]) -> str:
    """Documents as one YAML file for ``kubectl apply -f``."""
    return yaml.dump_all(documents, Dumper=_Plain, sort_keys=False)


class _Plain(yaml_text.Dumper):
    """Writes texts of several lines as such."""

    def represent_text(self, text: str) -> yaml.Node:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Plain.add_representer(str, _Plain.represent_text)


def _ray_job(submission: Submission, name: str, image: str, claim: str | None, code: str | None) -> dict[str, Any]:
    command = "raydistill" if code is None else "python -m raydistill"
    environment: dict[str, Any] = {"env_vars": quiet_variables()}
    if code is not None:
        environment["py_modules"] = [code]
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name},
        "spec": {
            "entrypoint": f"{command} run {_JOB_FOLDER}/job.yaml",
            "runtimeEnvYAML": yaml.safe_dump(environment, sort_keys=False),
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 300,
            "rayClusterSpec": _cluster(submission, name, image, claim),
        },
    }


def _cluster(submission: Submission, name: str, image: str, claim: str | None) -> dict[str, Any]:
    volumes = [{"name": "job", "configMap": {"name": f"{name}-job"}}]
    mounts = [{"name": "job", "mountPath": _JOB_FOLDER}]
    if claim is not None:
        volumes.append({"name": "storage", "persistentVolumeClaim": {"claimName": claim}})
        mounts.append({"name": "storage", "mountPath": str(PurePosixPath(submission.job["storage"]))})

    def template(container: str, resources: Mapping[str, str]) -> dict[str, Any]:
        limits = {"requests": dict(resources), "limits": dict(resources)}
        pod = {"name": container, "image": image, "resources": limits, "volumeMounts": mounts}
        if submission.variables:
            pod["envFrom"] = [{"secretRef": {"name": f"{name}-env"}}]
        return {"spec": {"containers": [pod], "volumes": volumes}}

    scalings = _scalings(submission.job)
    return {
        "rayVersion": version("ray"),
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"version": "v2", "idleTimeoutSeconds": 300},
        # KubeRay makes the token, keeps it in a secret and gives it to all pods.
        "authOptions": {"mode": "token"},
        # The head runs the driver and MLflow's tracker, and no work.
        "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": template("ray-head", _HEAD)},
        "workerGroupSpecs": [
            _group("data", template("ray-worker", _node(_CPUS_OF_DATA_NODE)), _data_nodes(scalings)),
            _group("training", template("ray-worker", _training_node(scalings)), _most_workers(scalings)),
        ],
    }


def _group(name: str, template: Mapping[str, Any], nodes: int) -> dict[str, Any]:
    replicas = {"replicas": nodes, "minReplicas": 0, "maxReplicas": nodes}
    return {"groupName": name, **replicas, "rayStartParams": {}, "template": template}


def _scalings(job: Mapping[str, Any]) -> list[ScalingConfig]:
    """That of each stage, the job's own where a stage has none."""
    default = job.get("scaling") or {}
    return [ScalingConfig.model_validate(stage.get("scaling") or default) for stage in job["stages"].values()]


def _most_workers(scalings: Sequence[ScalingConfig]) -> int:
    return max(scaling.num_workers for scaling in scalings)


def _data_nodes(scalings: Sequence[ScalingConfig]) -> int:
    """Nodes that have the CPUs of the data tasks of the stage that has most."""
    data = max(required_cpus(scaling) - scaling.num_workers * scaling.cpus_per_worker for scaling in scalings)
    return -(-data // _CPUS_OF_DATA_NODE)


def _training_node(scalings: Sequence[ScalingConfig]) -> dict[str, str]:
    """One worker a node, with a GPU where any stage trains on them."""
    gpu = {_GPU: "1"} if any(scaling.use_gpu for scaling in scalings) else {}
    return {**_node(max(scaling.cpus_per_worker for scaling in scalings)), **gpu}


def _node(cpus: int) -> dict[str, str]:
    return {"cpu": str(cpus), "memory": f"{max(cpus * _MEMORY_PER_CPU_GIB, 8)}Gi"}
