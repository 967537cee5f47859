import json
import os

import pytest

from raydistill.json_file import write_json, write_text


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
