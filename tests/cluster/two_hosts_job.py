"""The driver of a toy training on two hosts, which runs in a process of its own."""

import os
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ray
import torch

from integration.training.recovery_job import NUM_STEPS, Recorder, recorded_worker
from raydistill.training import group, trainer
from raydistill.training.engine import Engine
from raydistill.training.in_process import train_here
from raydistill.training.spec import TrainSpec
from toys.shardable import held_numel
from toys.training import make_spec

CPUS_PER_HOST = 3
"""Two for a worker, so that two workers are on two hosts, and one for the data tasks that feed it."""
ENDED = "the training ended"
"""Last line of a driver's log."""
HOLD_STEP = 5
"""Step in which a training waits for the test, after the checkpoint of step 4."""
TWO_HOSTS = {"num_workers": 2, "min_workers": 1, "cpus_per_worker": 2}
WAITING = {**TWO_HOSTS, "on_worker_failure": "wait"}
_HOLD_S = 120


class HoldingRecorder(Recorder):
    """Waits in the fault ``hold`` until there is a file ``go`` in its folder."""

    def _send(self, record: dict[str, Any]) -> Any:
        if record["op"] == "log_metrics" and "train/loss" in record["metrics"] and self.is_due("hold", record["step"]):
            end = time.monotonic() + _HOLD_S
            while not (self.folder / "go").exists() and time.monotonic() < end:
                time.sleep(0.1)
        return super()._send(record)


def noted_worker(config: dict[str, Any]) -> str:
    """Stands where the training's worker stands, and notes where it is and how much of the teacher it holds."""
    recorder: Recorder = config["tracker"]
    build = group.build_engine

    def noted_build(spec: TrainSpec, *, num_workers: int, device: torch.device) -> Engine:
        engine = build(spec, num_workers=num_workers, device=device)
        rank = ray.train.get_context().get_world_rank()
        [teacher] = engine.distiller.teachers
        note = {
            "host": ray.util.get_node_ip_address(),
            "num_workers": num_workers,
            "interface": os.environ.get("GLOO_SOCKET_IFNAME"),
            "teacher": held_numel(teacher),
        }
        recorder.append(f"hosts-{rank}", note)
        return engine

    group.build_engine = noted_build
    return recorded_worker(config)


def distil(inputs: Path, name: str, scaling: dict[str, Any]) -> None:
    """Train on two hosts in the folder ``name``, at ZeRO stage 3 with a sharded teacher, and hold once."""
    recorder = HoldingRecorder(inputs / name, {"hold": HOLD_STEP})
    recorder.folder.mkdir()
    training = {"max_steps": NUM_STEPS, "zero_stage": 3, "save_steps": 2, "max_failures": 1}
    spec = make_spec(inputs, placement="zero3", training=training, scaling=scaling)
    with patch.object(group, "train_worker", noted_worker):
        trainer.train(spec, str(recorder.folder), recorder, "run")


def distil_here(inputs: Path) -> None:
    """The same with one worker in this process, in the folder ``one``."""
    recorder = Recorder(inputs / "one")
    recorder.folder.mkdir()
    spec = make_spec(inputs, training={"max_steps": NUM_STEPS})
    train_here(spec, str(recorder.folder), recorder, "run")


def drive(inputs: str, name: str) -> None:
    """Train on the cluster of ``RAY_ADDRESS``, then here for comparison."""
    ray.init(log_to_driver=False)
    distil(Path(inputs), name, {"two": TWO_HOSTS, "waiting": WAITING}[name])
    distil_here(Path(inputs))
    print(ENDED, flush=True)  # noqa: T201


if __name__ == "__main__":
    # Under its own name, by which the workers find what is in it.
    from cluster import two_hosts_job

    two_hosts_job.drive(*sys.argv[1:])
