"""A disk that is full in mid-run, then has room, then is read-only: through the command line, on a disk of its own."""

import gc
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raydistill.cli import app
from raydistill.job import preflight
from toys.checkpoint import save_student

JOB = """\
name: toy
storage: {disk}/runs
tracking: {{uri: "sqlite:///{root}/mlflow.db"}}
stages:
  corpus:
    kind: binarize
    source: {{name: text, path: {root}/texts/*.txt}}
    encoding: {{name: mlm, max_length: 40}}
    tokenizer: {root}/student
    rows_per_shard: 500
"""


def mount(disk: Path, options: str) -> None:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"this user may not mount a small disk: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount(folder, "size=256k")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def job(tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job whose corpus is larger than its disk."""
    monkeypatch.setattr(preflight, "_LEAST_FREE_BYTES", 0)
    monkeypatch.setattr(preflight, "_PROBE_BYTES", 1)
    save_student(tmp_path / "student")
    (tmp_path / "texts").mkdir()
    draw = random.Random(0)
    for number in range(2):
        lines = (" ".join(f"w{draw.randrange(5, 60)}" for _ in range(60)) for _ in range(3000))
        (tmp_path / "texts" / f"{number}.txt").write_text("\n\n".join(lines))
    path = tmp_path / "toy.yaml"
    path.write_text(JOB.format(root=tmp_path, disk=disk))
    return path


@pytest.mark.usefixtures("ray_cluster")
def test_a_run_tells_that_its_disk_is_full_and_continues_when_it_has_room(job: Path, disk: Path) -> None:
    result = CliRunner().invoke(app, ["run", str(job)])
    assert result.exit_code == 2, result.output
    assert result.stderr.splitlines()[-1] == (
        f"storage {disk}/runs is full (No space left on device): make room, "
        "then run the same command again; it continues"
    )
    assert not [path for path in disk.rglob("*") if path.name in {"stage.json", "manifest.json"}]
    mount(disk, "remount,size=64m")
    result = CliRunner().invoke(app, ["run", str(job)])
    assert result.exit_code == 0, result.output
    assert "corpus: continuing" in result.stdout
    # The stream of a write that failed is closed when its error is collected, and no disk with an open file turns
    # read-only.
    gc.collect()
    mount(disk, "remount,ro")
    result = CliRunner().invoke(app, ["run", str(job), "seed=8"])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "cannot be written (Read-only file system); name another folder" in line
