"""Weights and optimizer state in files: what comes back, and what is refused."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from raydistill.training import state_files
from raydistill.training.agreement import StorageError, agree
from raydistill.training.master_state import MasterState
from raydistill.training.state_files import read_state, write_state

pytestmark = pytest.mark.usefixtures("process_group")


class Toy:
    """A module with a frozen weight and a buffer, and its optimizer."""

    def __init__(self, *, width: int = 4, seed: int = 0, extra: bool = False) -> None:
        torch.manual_seed(seed)
        self.module = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2))
        self.module[2].weight.requires_grad_(False)
        if extra:
            self.module.append(nn.Linear(2, 2))
        trainable = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trainable, lr=0.1)
        self.masters = MasterState(self.module, self.optimizer, zero_stage=0)
        self.buffers = dict(self.module.named_buffers())

    def step(self, number: int) -> float:
        batch = torch.randn(8, 3, generator=torch.Generator().manual_seed(number))
        loss = self.module(batch).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def save(self, folder: Path, state: dict[str, Any] | None = None) -> list[str]:
        return write_state(self.masters, self.buffers, folder, state or {})

    def load(self, folder: Path) -> dict[str, Any]:
        with torch.no_grad():
            state = read_state(self.masters, self.buffers, folder)
        self.masters.refresh()
        return state


@pytest.fixture
def saved(tmp_path: Path) -> Toy:
    toy = Toy()
    for number in range(3):
        toy.step(number)
    toy.save(tmp_path, {"step": 3})
    return toy


def test_training_continues_to_the_last_bit(tmp_path: Path, saved: Toy) -> None:
    other = Toy(seed=1)
    with torch.no_grad():
        other.module[2].weight.copy_(saved.module[2].weight)
    assert other.load(tmp_path) == {"step": 3}
    assert [other.step(number) for number in range(3, 8)] == [saved.step(number) for number in range(3, 8)]


def test_files_hold_weights_moments_and_buffers_by_name(tmp_path: Path, saved: Toy) -> None:
    description = json.loads((tmp_path / "state.json").read_text())
    names = description["tensors"]
    assert {"weight/0.weight", "exp_avg/0.weight", "exp_avg_sq/0.weight", "buffer/1.running_mean"} <= names.keys()
    # Frozen weights come from the student's own files.
    assert "weight/2.weight" not in names
    assert description["optimizer"]["steps"] == dict.fromkeys(saved.masters.shapes, 3)
    with safe_open(tmp_path / names["weight/0.weight"], framework="pt") as file:
        torch.testing.assert_close(file.get_tensor("weight/0.weight"), saved.module[0].weight.detach())


def test_tensors_are_spread_over_files_of_bounded_size(
    tmp_path: Path, saved: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_files, "_FILE_BYTES", 20)
    (tmp_path / "small").mkdir()
    files = saved.save(tmp_path / "small")
    assert len(files) > 5
    assert sorted(files) == sorted(path.name for path in (tmp_path / "small").iterdir())
    other = Toy(seed=1)
    other.load(tmp_path / "small")
    for parameter, expected in zip(other.optimizer.param_groups[0]["params"], saved.masters.shapes, strict=True):
        torch.testing.assert_close(parameter.detach(), saved.masters.gather(expected, None))


@pytest.mark.parametrize(
    ("toy", "text"),
    [
        ({"extra": True}, "it lacks 3.bias, which this training has"),
        ({"width": 5}, "its 0.weight has shape (4, 3), this training's has (5, 3)"),
    ],
)
def test_a_checkpoint_of_other_parameters_is_refused(
    tmp_path: Path, saved: Toy, toy: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Toy(**toy).load(tmp_path)
    assert str(caught.value) == text


def test_a_checkpoint_with_more_parameters_is_refused(tmp_path: Path) -> None:
    Toy(extra=True).save(tmp_path)
    with pytest.raises(ValueError, match=r"it has 3\.bias, which this training lacks"):
        Toy().load(tmp_path)


def test_a_damaged_file_is_told_to_every_rank_in_one_line(tmp_path: Path, saved: Toy) -> None:
    (tmp_path / "tensors-00000-000.safetensors").write_bytes(b"no tensors")
    with pytest.raises(StorageError, match=r"^checkpoint: .+; remove it$") as caught:
        agree(lambda: saved.load(tmp_path), subject="checkpoint", remedy="remove it")
    assert "\n" not in str(caught.value)


def test_a_full_disk_ends_the_writing(tmp_path: Path, saved: Toy) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"this user may not mount a small disk: {done.stderr.strip()}")
    try:
        (disk / "filler").write_bytes(bytes(4096))
        with pytest.raises((OSError, SafetensorError), match="No space left on device"):
            saved.save(disk)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_folder_that_vanished_ends_the_writing(tmp_path: Path, saved: Toy) -> None:
    with pytest.raises((OSError, SafetensorError), match="No such file or directory"):
        saved.save(tmp_path / "gone")
