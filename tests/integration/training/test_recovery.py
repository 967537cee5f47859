"""Trainings that are killed, or whose disk is full, and started again, against one that nobody disturbed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from integration.training.recovery_job import NUM_STEPS, Recorder, train
from raydistill.training.checkpoint_store import checkpoints_at, step_of
from toys.training import write_inputs

# A killed training runs in `make test`: test_killed_training.py.
pytestmark = pytest.mark.long
TESTS = Path(__file__).parents[2]
NUM_ROWS = 90


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recovery")
    write_inputs(folder)
    return folder


def _recorder(inputs: Path, name: str, faults: dict[str, int] | None = None) -> Recorder:
    (inputs / name).mkdir(exist_ok=True)
    return Recorder(inputs / name, faults)


@pytest.fixture(scope="module")
def undisturbed(inputs: Path, ray_cluster: None) -> Recorder:
    recorder = _recorder(inputs, "undisturbed")
    train(inputs, recorder, num_workers=2, zero_stage=3)
    return recorder


def _run_driver(inputs: Path, folder: Path, **faults: int) -> int:
    """Train in a process with its own cluster; returns how it ended."""
    command = [sys.executable, "-m", "integration.training.recovery_job", str(inputs), str(folder), json.dumps(faults)]
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    return subprocess.run(command, env=environment, cwd=TESTS, timeout=500, check=False).returncode


@pytest.fixture(scope="module")
def killed(inputs: Path, ray_cluster: None) -> dict[str, Any]:
    """A job whose worker, then driver, then cluster are killed; the last start is on the tests' cluster."""
    recorder = _recorder(inputs, "killed")
    ends = [
        _run_driver(inputs, recorder.folder, write=4, driver=5),
        _run_driver(inputs, recorder.folder, cluster=7),
    ]
    result = train(inputs, recorder, num_workers=2, zero_stage=3)
    survivors = _survivors_after(recorder, seconds=60)
    return {"recorder": recorder, "ends": ends, "survivors": survivors, "result": result}


def _survivors_after(recorder: Recorder, *, seconds: float) -> list[int]:
    end = time.monotonic() + seconds
    while recorder.survivors() and time.monotonic() < end:
        time.sleep(0.2)
    return recorder.survivors()


@pytest.fixture(scope="module")
def full(inputs: Path, undisturbed: Recorder) -> dict[str, Any]:
    """A job of 1 worker whose disk fills up, whose latest checkpoint is damaged, and which 2 workers continue."""
    recorder = _recorder(inputs, "full", {"full": 6})
    found: dict[str, Any] = {"recorder": recorder}
    with pytest.raises(ValueError, match="No space left") as caught:
        train(inputs, recorder, num_workers=1, zero_stage=0)
    found["text"] = str(caught.value)
    found["groups"] = recorder.num_groups()
    checkpoints = checkpoints_at(recorder.folder / "checkpoints")
    found["left"] = sorted(path.name for path in checkpoints.folder.iterdir() if path.name.startswith(".checkpoint"))
    found["kept"] = {step_of(path): checkpoints.fault(path) for path in checkpoints.finished()}
    damaged = checkpoints.finished()[-1]
    (damaged / "tensors-00000-000.safetensors").unlink()
    with pytest.raises(ValueError, match="is missing") as caught:
        train(inputs, recorder, num_workers=2, zero_stage=2)
    found["refusal"] = str(caught.value)
    for path in damaged.iterdir():
        path.unlink()
    damaged.rmdir()
    train(inputs, recorder, num_workers=2, zero_stage=2)
    return found


def test_killed_jobs_end_by_the_signal(killed: dict[str, Any]) -> None:
    assert killed["ends"] == [-signal.SIGKILL, -signal.SIGKILL]


def test_each_start_continues_from_the_last_complete_checkpoint(killed: dict[str, Any]) -> None:
    steps = [line["step"] for line in killed["recorder"].lines("losses")]
    # Killed: a worker while it wrote the checkpoint of step 4, the driver in step 5, the cluster in step 7.
    assert steps == [1, 2, 3, 4, 3, 4, 5, 6, 7, 8, 9]


def test_losses_after_kills_are_those_of_an_undisturbed_run(killed: dict[str, Any], undisturbed: Recorder) -> None:
    assert killed["recorder"].losses() == pytest.approx(undisturbed.losses(), rel=1e-6)


def test_no_row_is_lost_or_taken_twice_by_kills(killed: dict[str, Any], undisturbed: Recorder) -> None:
    expected = undisturbed.rows()
    assert list(expected) == list(range(1, NUM_STEPS + 1))
    assert sorted(row for rows in expected.values() for row in rows) == list(range(NUM_ROWS))
    assert killed["recorder"].rows() == expected


def test_no_process_outlives_a_killed_driver(killed: dict[str, Any]) -> None:
    assert killed["survivors"] == []


def test_nothing_half_written_is_left_after_kills(killed: dict[str, Any]) -> None:
    folder = killed["recorder"].folder
    storage = folder / "checkpoints"
    assert [path.name for path in (*folder.iterdir(), *storage.iterdir()) if ".partial" in path.name] == []
    checkpoints = checkpoints_at(storage)
    assert {step_of(path): checkpoints.fault(path) for path in checkpoints.finished()} == {8: None, 9: None}
    assert (Path(killed["result"].student) / "model.safetensors").is_file()


def test_a_full_disk_ends_the_training_with_one_line_and_no_restart(full: dict[str, Any]) -> None:
    storage = full["recorder"].folder / "checkpoints"
    assert full["text"].startswith(f"{storage}: No space left on device; ")
    assert "\n" not in full["text"]
    assert full["groups"] == 1


def test_a_full_disk_leaves_the_earlier_checkpoints_and_nothing_half_written(full: dict[str, Any]) -> None:
    assert full["kept"] == {2: None, 4: None}
    assert full["left"] == []


def test_a_damaged_checkpoint_is_refused_and_the_one_before_offered(full: dict[str, Any]) -> None:
    storage = full["recorder"].folder / "checkpoints"
    assert full["refusal"] == (
        f"checkpoint {storage}/checkpoint_000000004: tensors-00000-000.safetensors is missing; "
        f"remove {storage}/checkpoint_000000004 to continue from checkpoint_000000002 (step 2)"
    )


def test_two_workers_continue_at_another_stage_what_one_worker_saved(
    full: dict[str, Any], undisturbed: Recorder
) -> None:
    recorder = full["recorder"]
    assert [line["step"] for line in recorder.lines("losses")] == [1, 2, 3, 4, 5, 6, 3, 4, 5, 6, 7, 8, 9]
    assert recorder.losses() == pytest.approx(undisturbed.losses(), rel=1e-5)
    assert recorder.rows() == undisturbed.rows()
