import json
import os

import pytest

from raydistill.atomic import atomic_folder, finish, first_folder, partial_path, start, tidy, write_json, write_text


def test_a_file_is_replaced(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    write_json(tmp_path / "a.json", {"a": 2}, indent=2)
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 2}
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_full_disk_leaves_the_old_content_and_nothing_else(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    (tmp_path / f".a.txt.{os.getpid()}").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    for name in ("old", "new"):
        with atomic_folder(tmp_path / "made") as made:
            (made / name).touch()
    assert names(tmp_path) == ["made", "made/new"]


@pytest.mark.parametrize("opened", [atomic_folder, first_folder])
def test_an_error_leaves_the_old_folder_and_nothing_beside_it(tmp_path, opened):
    with opened(tmp_path / "made") as made:
        (made / "old").touch()

    def fail():
        with opened(tmp_path / "made") as made:
            (made / "new").touch()
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        fail()
    assert names(tmp_path) == ["made", "made/old"]


def test_of_two_that_make_the_same_folder_the_first_ones_stays(tmp_path):
    target = tmp_path / "below" / "made"
    with first_folder(target) as second:
        (second / "second").touch()
        with first_folder(target) as first:
            (first / "first").touch()
    assert names(target) == ["first"]
    assert names(target.parent) == ["made", "made/first"]


def test_a_replacement_that_was_killed_twice_is_done_by_the_next(tmp_path):
    target = tmp_path / "made"
    for name in ("oldest", "old"):
        (start(target) / name).touch()
        finish(target)
    # Killed after the first rename, then written, and killed before the last step.
    (tmp_path / ".made.replaced").mkdir()
    (tmp_path / ".made.replaced" / "oldest").touch()
    with atomic_folder(target) as made:
        (made / "new").touch()
    assert names(tmp_path) == ["made", "made/new"]


def test_what_a_kill_left_is_tidied(tmp_path):
    with atomic_folder(tmp_path / "made") as made:
        (made / "old").touch()
    (tmp_path / "made").rename(tmp_path / ".made.replaced")
    start(tmp_path / "made")
    assert partial_path(tmp_path / "made").is_dir()
    tidy(tmp_path)
    assert names(tmp_path) == ["made", "made/old"]
