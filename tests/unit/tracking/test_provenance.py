import subprocess

import torch

from raydistill.tracking.provenance import environment, git_commit


def git(folder, *arguments) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.com"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def work_tree(folder):
    git(folder, "init", "-q")
    (folder / "tracked.txt").write_text("a")
    git(folder, "add", "tracked.txt")
    git(folder, "commit", "-qm", "First")
    return git(folder, "rev-parse", "HEAD")


def test_a_work_tree_tells_its_commit_and_whether_it_changed(tmp_path):
    commit = work_tree(tmp_path)
    assert git_commit(tmp_path) == commit
    (tmp_path / "tracked.txt").write_text("b")
    assert git_commit(tmp_path) == f"{commit}+changes"


def test_a_folder_that_git_does_not_track_has_no_commit(tmp_path):
    work_tree(tmp_path)
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "package.py").write_text("")
    assert git_commit(tmp_path / "installed") is None


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit(tmp_path) is None


def test_the_environment_tells_the_version_of_torch():
    assert environment()["version.torch"] == torch.__version__
