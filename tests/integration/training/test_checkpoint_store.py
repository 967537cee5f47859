"""Folders of checkpoints after a crash, after damage, and while they are replaced."""

from pathlib import Path

import pytest

from raydistill.atomic import start, tidy
from raydistill.training.checkpoint_store import checkpoint_path, checkpoints_at, step_of

TENSORS = "tensors-00000-000.safetensors"


def _write(folder: Path, step: int) -> Path:
    """A whole checkpoint of two files."""
    checkpoints, target = checkpoints_at(folder), checkpoint_path(folder, step)
    checkpoints.begin(target)
    partial = checkpoints.folder_for(target)
    (partial / TENSORS).write_bytes(bytes(range(100)))
    (partial / "state.json").write_text("{}")
    checkpoints.finish(target, checkpoints.take(target, partial, [TENSORS, "state.json"]))
    return target


def fault(checkpoint: Path) -> str | None:
    return checkpoints_at(checkpoint.parent).fault(checkpoint)


def test_checkpoints_are_found_in_the_order_of_their_steps(tmp_path: Path) -> None:
    written = [_write(tmp_path, step) for step in (40, 1000, 200)]
    (tmp_path / "checkpoint_manager_snapshot.json").write_text("{}")
    assert checkpoints_at(tmp_path).finished() == [written[0], written[2], written[1]]
    assert [step_of(path) for path in checkpoints_at(tmp_path).finished()] == [40, 200, 1000]


def test_a_whole_checkpoint_passes(tmp_path: Path) -> None:
    assert fault(_write(tmp_path, 40)) is None
    checkpoints_at(tmp_path).prepare()


def test_a_folder_without_checkpoints_passes(tmp_path: Path) -> None:
    checkpoints_at(tmp_path / "not there").prepare()


@pytest.mark.parametrize("file", [TENSORS, "state.json", "manifest.json"])
def test_a_missing_file_is_named(tmp_path: Path, file: str) -> None:
    checkpoint = _write(tmp_path, 40)
    (checkpoint / file).unlink()
    assert fault(checkpoint) == f"{file} is missing"


def test_a_shortened_file_is_named_with_its_size(tmp_path: Path) -> None:
    checkpoint = _write(tmp_path, 40)
    (checkpoint / TENSORS).write_bytes(bytes(99))
    assert fault(checkpoint) == f"{TENSORS} has size 99 where manifest.json says 100"


def test_a_changed_byte_is_found_by_the_hash(tmp_path: Path) -> None:
    checkpoint = _write(tmp_path, 40)
    content = bytearray((checkpoint / TENSORS).read_bytes())
    content[50] ^= 1
    (checkpoint / TENSORS).write_bytes(content)
    found = fault(checkpoint)
    assert found is not None
    assert found.startswith(f"{TENSORS} has sha256 ")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"files": [1]}', '{"files": {"state.json": 3}}'])
def test_a_manifest_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    checkpoint = _write(tmp_path, 40)
    (checkpoint / "manifest.json").write_text(text)
    assert fault(checkpoint) == "manifest.json is damaged"


def test_a_damaged_checkpoint_is_refused_and_the_one_before_offered(tmp_path: Path) -> None:
    _write(tmp_path, 20)
    latest = _write(tmp_path, 40)
    (latest / TENSORS).unlink()
    with pytest.raises(ValueError, match=r"is missing; remove .*checkpoint_000000040 to continue from .*\(step 20\)"):
        checkpoints_at(tmp_path).prepare()


def test_of_several_damaged_checkpoints_all_are_to_be_removed(tmp_path: Path) -> None:
    _write(tmp_path, 20)
    for step in (40, 60):
        (_write(tmp_path, step) / TENSORS).unlink()
    with pytest.raises(ValueError, match=r"remove .*_000000040 and .*_000000060 to continue from .*\(step 20\)"):
        checkpoints_at(tmp_path).prepare()


def test_a_damaged_checkpoint_without_an_earlier_one_is_to_be_removed_to_start_again(tmp_path: Path) -> None:
    (_write(tmp_path, 40) / TENSORS).unlink()
    with pytest.raises(ValueError, match=r"there is no earlier one: remove .*_000000040 to start again"):
        checkpoints_at(tmp_path).prepare()


def test_a_damaged_earlier_checkpoint_does_not_hinder_the_latest(tmp_path: Path) -> None:
    (_write(tmp_path, 20) / TENSORS).unlink()
    _write(tmp_path, 40)
    checkpoints_at(tmp_path).prepare()


def test_a_half_written_folder_is_no_checkpoint_and_is_tidied_away(tmp_path: Path) -> None:
    whole = _write(tmp_path, 20)
    (start(checkpoint_path(tmp_path, 40)) / TENSORS).write_bytes(b"half")
    assert checkpoints_at(tmp_path).finished() == [whole]
    tidy(tmp_path)
    assert list(tmp_path.iterdir()) == [whole]


def test_what_was_about_to_be_replaced_is_put_back(tmp_path: Path) -> None:
    whole = _write(tmp_path, 20)
    replaced = whole.rename(whole.with_name(f".{whole.name}.replaced"))
    tidy(tmp_path)
    assert not replaced.exists()
    assert fault(whole) is None


def test_what_was_replaced_is_deleted(tmp_path: Path) -> None:
    whole = _write(tmp_path, 20)
    replaced = whole.with_name(f".{whole.name}.replaced")
    replaced.mkdir()
    tidy(tmp_path)
    assert list(tmp_path.iterdir()) == [whole]


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    (_write(tmp_path, 20) / "stale").touch()
    whole = _write(tmp_path, 20)
    assert list(tmp_path.iterdir()) == [whole]
    assert not (whole / "stale").exists()
