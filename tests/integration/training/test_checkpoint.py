"""Folders of checkpoints after a crash."""

import json
from pathlib import Path

from raydistill.training.checkpoint import remove_unregistered


def _folder(path: Path) -> Path:
    for name in ("checkpoint_1", "checkpoint_2", "other"):
        (path / name).mkdir()
    return path


def test_a_checkpoint_that_was_never_registered_is_deleted(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    register = folder / "checkpoint_manager_snapshot.json"
    register.write_text(json.dumps({"checkpoint_results": [{"checkpoint_dir_name": "checkpoint_2"}]}))
    remove_unregistered(folder)
    assert {entry.name for entry in folder.iterdir()} == {"checkpoint_2", "other", register.name}


def test_without_a_register_nothing_is_deleted(tmp_path: Path) -> None:
    remove_unregistered(_folder(tmp_path))
    assert len(list(tmp_path.iterdir())) == 3
