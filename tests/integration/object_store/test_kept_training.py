"""A training of one worker that no group of Ray Train runs, with its checkpoints on a real S3 server."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from toys.store import BUCKET, keys, s3_server, without_ray_address
from toys.training import write_inputs

SCRIPT = Path(__file__).with_name("kept_training.py")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """In a process of its own, since a training's process group is kept for its life."""
    folder = tmp_path_factory.mktemp("kept")
    write_inputs(folder)
    with s3_server(folder / "cache") as client:
        command = [sys.executable, str(SCRIPT), str(folder), f"s3://{BUCKET}/run"]
        environment = {**without_ray_address(), "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return {**result, "folder": folder, "keys": keys(client, "run/")}


def test_it_goes_on_from_the_bucket_with_an_empty_disk_and_the_losses_are_the_same(found: dict[str, Any]) -> None:
    assert found["left"] == ["checkpoint_000000004", "checkpoint_000000006"]
    whole, interrupted = found["histories"]
    assert list(whole) == [str(step) for step in range(1, 11)]
    assert interrupted == whole


def test_old_checkpoints_go_and_the_student_is_here_and_there(found: dict[str, Any]) -> None:
    assert found["kept"] == ["checkpoint_000000008", "checkpoint_000000010"]
    assert "run/student/model.safetensors" in found["keys"]
    assert found["student"].startswith(f"{found['folder']}/other-cache/")
    assert (Path(found["student"]) / "model.safetensors").is_file()


def test_no_checkpoint_takes_room_on_the_disks(found: dict[str, Any]) -> None:
    assert not list(found["folder"].rglob("raydistill-s3/**/tensors-*"))
