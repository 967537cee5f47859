"""A toy training that records the rows it consumed and meets faults where it is told; also run as its own driver."""

import errno
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import ray.train

from raydistill.batch import Batch
from raydistill.tracking.tracker import Tracker
from raydistill.training import checkpoint_store, ray_train_session, state_files, trainer, worker
from raydistill.training.result import TrainResult
from toys.training import make_spec

NUM_STEPS = 9
"""One epoch of the toy corpus, in the middle of which the faults come."""


class Recorder(Tracker):
    """Writes losses and rows to files in ``folder``, and meets each of its ``faults`` once: their names and steps.

    ``driver`` and ``cluster`` are killed when the step is logged, before it is recorded. A worker is killed in the
    middle of the step's checkpoint by ``write``; ``full`` is a disk that is full then.
    """

    def __init__(self, folder: Path, faults: dict[str, int] | None = None) -> None:
        self.folder, self.faults = folder, faults or {}
        self.driver = os.getpid()

    def _send(self, record: dict[str, Any]) -> Any:
        if record["op"] == "log_metrics" and "train/loss" in record["metrics"]:
            if self.is_due("driver", record["step"]):
                self._note_processes()
                os.kill(self.driver, signal.SIGKILL)
                # What is done from now on is done by a process that nobody waits for.
                time.sleep(600)
            if self.is_due("cluster", record["step"]):
                for process in (*self._processes(), psutil.Process()):
                    process.kill()
            self.append("losses", {"step": record["step"], "loss": record["metrics"]["train/loss"]})
        return None

    def is_due(self, fault: str, step: int) -> bool:
        """Whether a fault is to be met now, for the first time."""
        marker = self.folder / f"met-{fault}"
        if self.faults.get(fault) != step or marker.exists():
            return False
        marker.touch()
        return True

    def append(self, name: str, line: dict[str, Any]) -> None:
        """Add a line to a file."""
        with (self.folder / f"{name}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def lines(self, name: str) -> list[dict[str, Any]]:
        """What was added to a file, in order of arrival."""
        path = self.folder / f"{name}.jsonl"
        return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]

    def losses(self) -> dict[int, float]:
        """The loss of each step, of the last time it was taken."""
        return {line["step"]: line["loss"] for line in self.lines("losses")}

    def rows(self) -> dict[int, list[int]]:
        """The rows of each step over all ranks, of the last group of workers that took it."""
        lines = [line for path in self.folder.glob("rows-*.jsonl") for line in self.lines(path.stem)]
        last = {line["step"]: line["group"] for line in sorted(lines, key=lambda line: line["time"])}
        found: dict[int, list[int]] = {step: [] for step in sorted(last)}
        for line in lines:
            if line["group"] == last[line["step"]]:
                found[line["step"]] += line["rows"]
        return {step: sorted(rows) for step, rows in found.items()}

    def num_groups(self) -> int:
        """How often workers were started."""
        return len({line["group"] for path in self.folder.glob("rows-*.jsonl") for line in self.lines(path.stem)})

    def survivors(self) -> list[int]:
        """Processes of a killed driver's cluster that still run."""
        noted = json.loads((self.folder / "processes.json").read_text())
        return [pid for pid, created in noted if _runs(pid, created)]

    def _processes(self) -> list[psutil.Process]:
        """The driver and all that it started, but this process."""
        driver = psutil.Process(self.driver)
        return [process for process in (driver, *driver.children(recursive=True)) if process.pid != os.getpid()]

    def _note_processes(self) -> None:
        noted = [(process.pid, process.create_time()) for process in (*self._processes(), psutil.Process())]
        (self.folder / "processes.json").write_text(json.dumps(noted))


def _runs(pid: int, created: float) -> bool:
    try:
        process = psutil.Process(pid)
        return process.create_time() == created and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def recorded_worker(config: dict[str, Any]) -> str:
    """Stands where the training's worker stands."""
    recorder: Recorder = config["tracker"]
    rank = ray.train.get_context().get_world_rank()
    feed, describe, save_file = ray_train_session.feed, checkpoint_store.describe, state_files.save_file

    def recorded_feed(*arguments: Any, start_step: int, **options: Any) -> Iterator[list[Batch]]:
        with closing(feed(*arguments, start_step=start_step, **options)) as steps:
            for step, batches in enumerate(steps, start_step + 1):
                rows = [row for batch in batches for row in batch["row_id"].tolist()]
                group = os.environ["MASTER_PORT"]
                recorder.append(f"rows-{rank}", {"step": step, "rows": rows, "group": group, "time": time.time()})
                yield batches

    def dying_describe(folder: Path, files: Any) -> Any:
        # Between the writing of the tensors and of the manifest, with one file cut in its middle.
        if rank == 1 and recorder.is_due("write", _step(folder)):
            os.truncate(folder / files[0], 100)
            os.kill(os.getpid(), signal.SIGKILL)
        return describe(folder, files)

    def failing_save(tensors: Any, path: Path) -> None:
        if recorder.is_due("full", _step(path.parent)):
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        save_file(tensors, path)

    ray_train_session.feed = recorded_feed
    checkpoint_store.describe = dying_describe
    state_files.save_file = failing_save
    return worker.train_worker(config)


def _step(partial: Path) -> int:
    return int(partial.name.removeprefix(".checkpoint_").removesuffix(".partial"))


def train(inputs: Path, recorder: Recorder, *, num_workers: int, zero_stage: int) -> TrainResult:
    """Train in ``recorder.folder``, or continue there."""
    training = {
        "max_steps": NUM_STEPS,
        "zero_stage": zero_stage,
        "save_steps": 2,
        "save_total_limit": 2,
        "max_failures": 1,
    }
    spec = make_spec(inputs, num_workers=num_workers, training=training)
    with patch.object(trainer, "train_worker", recorded_worker):
        return trainer.train(spec, str(recorder.folder), recorder, "run")


def main(inputs: str, folder: str, faults: str) -> None:
    """Train with 2 workers at stage 3 on a cluster of this process."""
    ray.init(
        address="local",
        num_cpus=4,
        object_store_memory=300_000_000,
        include_dashboard=False,
        log_to_driver=False,
    )
    train(Path(inputs), Recorder(Path(folder), json.loads(faults)), num_workers=2, zero_stage=3)


if __name__ == "__main__":
    # Under its own name, by which the workers find what is in it.
    from integration.training import recovery_job

    recovery_job.main(*sys.argv[1:])
