"""What identifies a folder outside the job."""

from pathlib import Path

import pytest

from raydistill import store_paths
from raydistill.job.record import fingerprint
from raydistill.user_error import UserError


def test_a_folder_with_a_file_that_may_not_be_read_is_refused_by_both_names(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("a")
    assert fingerprint(str(tmp_path))

    def denied(self: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "is_file", denied)
    with pytest.raises(UserError, match=rf"^{tmp_path} holds {tmp_path}/a, which may not be read; name another folder"):
        fingerprint(str(tmp_path))


def test_a_folder_with_more_files_than_a_corpus_has_is_not_walked_to_its_end(tmp_path, monkeypatch):
    for number in range(5):
        (tmp_path / str(number)).touch()
    monkeypatch.setattr(store_paths, "_MOST_FILES", 5)
    assert fingerprint(str(tmp_path))
    (tmp_path / "one more").touch()
    with pytest.raises(UserError) as caught:
        fingerprint(str(tmp_path))
    assert caught.value.lines == [f"{tmp_path} holds over 5 files; name the folder of one corpus or checkpoint"]
