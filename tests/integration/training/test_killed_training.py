"""Two workers of ZeRO stage 2 that are killed and started again, against one worker that nobody disturbed."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from raydistill.data import shared_reader
from raydistill.training import trainer
from raydistill.training.checkpoint_store import checkpoints_at, step_of
from raydistill.training.kept_process import KeptProcesses
from raydistill.training.trainer import train
from toys.training import FileTracker, make_spec, write_inputs

pytestmark = pytest.mark.core

NUM_STEPS, LAST_CHECKPOINT, CRASH = 6, 4, 6


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("killed")
    write_inputs(folder)
    training = {"max_steps": NUM_STEPS, "zero_stage": 2, "save_steps": 2, "max_failures": 0}
    found: dict[str, Any] = {}
    with KeptProcesses() as processes:
        tracker = FileTracker(folder / "alone.jsonl")
        (folder / "alone").mkdir()
        processes.train(make_spec(folder, training=training), str(folder / "alone"), tracker, "run")
        found["alone"] = losses(tracker)
    spec = make_spec(folder, num_workers=2, training=training)
    tracker = FileTracker(folder / "killed.jsonl", crashes=(CRASH,))
    output = folder / "killed"
    output.mkdir()
    with pytest.raises(Exception):  # noqa: B017, PT011
        train(spec, str(output), tracker, "run")
    found["saved"] = [step_of(path) for path in checkpoints_at(output / "checkpoints").finished()]
    found["before"] = losses(tracker)
    # This time one process reads for both workers.
    shared = patch.object(trainer, "shared_reader", wraps=trainer.shared_reader)
    with patch.object(shared_reader, "CACHE_BYTES", 0), shared as started:
        found["result"] = train(spec, str(output), tracker, "run")
    found["readers"] = started.call_count
    found["killed"] = losses(tracker)
    return found


def losses(tracker: FileTracker) -> list[tuple[int, float]]:
    return [(int(record["step"]), record["train/loss"]) for record in tracker.steps()]


def test_a_killed_training_continues_from_its_last_checkpoint(runs: dict[str, Any]) -> None:
    assert runs["saved"][-1] == LAST_CHECKPOINT
    assert [step for step, _ in runs["before"]] == [1, 2, 3, 4, 5]
    assert [step for step, _ in runs["killed"]] == [1, 2, 3, 4, 5, 5, 6]


def test_its_losses_are_those_of_one_worker_that_nobody_disturbed(runs: dict[str, Any]) -> None:
    assert list(dict(runs["killed"])) == [step for step, _ in runs["alone"]]
    assert dict(runs["killed"]) == pytest.approx(dict(runs["alone"]), rel=1e-5)
    assert runs["readers"] == 1


def test_it_leaves_its_student(runs: dict[str, Any]) -> None:
    assert (Path(runs["result"].student) / "model.safetensors").is_file()
