"""A real S3 server, moto's, and a job small enough for tests that keeps its outputs there."""

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from raydistill.models.load import save_model
from toys.classifiers import CLASSES, toy_classifier
from toys.models import toy_bert
from toys.training import OPTIMIZER
from toys.words import make_tokenizer

BUCKET = "distilled"
VARIABLES = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    # Requests to this machine go to no proxy.
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
}


@contextmanager
def s3_server(cache: Path, **settings: str) -> Iterator[Any]:
    """boto3's client of a server with one bucket; this process's variables name it, and a cache folder of its own.

    The server is a process of its own; ``settings`` are further variables of it.
    """
    import boto3

    port = _free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(command, env={**os.environ, **settings}, stdout=quiet, stderr=quiet)
    try:
        _wait_for(port, server)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in VARIABLES.items():
                patch.setenv(name, value)
            patch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
            patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
            patch.setenv("RAYDISTILL_CACHE", str(cache))
            client = boto3.client("s3")
            client.create_bucket(Bucket=BUCKET)
            yield client
    finally:
        server.kill()
        server.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert server.poll() is None, "the S3 server ended"
        assert time.monotonic() < deadline, "the S3 server does not start"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)


def keys(client: Any, prefix: str = "") -> list[str]:
    """Names of the objects below a prefix, sorted."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return sorted(one["Key"] for page in pages for one in page.get("Contents", ()))


def empty(client: Any) -> None:
    """Delete all objects."""
    for key in keys(client):
        client.delete_object(Bucket=BUCKET, Key=key)


def write_inputs(folder: Path) -> None:
    """``rows.csv``, 96 texts of three classes, and ``model``, a 3-block BERT with the tokenizer of their words."""
    draw = random.Random(0)
    lines = ["text,label"]
    for _ in range(96):
        words = " ".join(f"w{draw.randrange(5, 60)}" for _ in range(draw.randrange(5, 20)))
        lines.append(f"{words},{draw.choice(CLASSES)}")
    (folder / "rows.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    model = toy_classifier(toy_bert, 3, dtype=torch.float32)
    save_model(model.eval(), make_tokenizer(), folder / "model")


def job_data(folder: Path, storage: str, **sections: Any) -> dict[str, Any]:
    """Binarize, distil a teacher to 2 blocks, evaluate, register and report; inputs lie in ``folder``."""
    training = {"batch_size": 8, "micro_batch_size": 4, "precision": "fp32", "logging_steps": 1}
    model = {"checkpoint": str(folder / "model")}
    stages = {
        "corpus": {
            "kind": "binarize",
            "source": {"name": "delimited", "path": str(folder / "rows.csv"), "label": "label"},
            "encoding": {"name": "classification", "labels": list(CLASSES), "max_length": 24},
            "tokenizer": str(folder / "model"),
            "validation": 0.2,
        },
        "student": {
            "kind": "train",
            "corpus": "corpus",
            "task": "classification",
            "method": "kd",
            "teachers": [model],
            "teacher_outputs": "stored",
            "student": {"layers": [0, 2]},
            "training": {
                **training,
                "max_steps": 40,
                "num_epochs": 9,
                "eval_steps": 20,
                "save_steps": 5,
                "keep_checkpoints": True,
                "load_best_model_at_end": True,
            },
            "optimizer": {**OPTIMIZER, "learning_rate": 5e-4},
        },
        "evaluate": {
            "kind": "evaluate",
            "corpus": "corpus",
            "task": "classification",
            "models": {"teacher": model, "student before": "student@initial", "student": "student"},
            "latency_repeats": 0,
        },
        "register": {"kind": "register", "model": "student", "name": "toy-student", "evaluation": "evaluate"},
        "report": {"kind": "report", "evaluations": "evaluate", "trainings": ["student"]},
    }
    # As many threads in a group of Ray Train as in a kept process on 2 cores.
    return {"name": "toy", "storage": storage, "scaling": {"cpus_per_worker": 2}, "stages": stages, **sections}


def write_job(path: Path, data: dict[str, Any]) -> Path:
    """Write a job file."""
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def without_ray_address() -> dict[str, str]:
    """This process's variables, with one thread a process and no cluster to join."""
    found = {**os.environ, "OMP_NUM_THREADS": "1"}
    found.pop("RAY_ADDRESS", None)
    return found
