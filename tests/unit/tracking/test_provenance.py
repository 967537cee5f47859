import os
import subprocess
import sys

import numpy
import pytest
import torch

from raydistill.tracking import provenance
from raydistill.tracking.provenance import command, environment, git_commit, package_list


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


def test_the_environment_tells_the_machine_and_every_installed_version():
    tags = environment()
    assert tags["cpu"]
    assert int(tags["cpu_cores"]) == len(os.sched_getaffinity(0))
    assert float(tags["memory_gib"]) > 0.5
    assert tags["version.numpy"] == numpy.__version__
    assert f"numpy=={numpy.__version__}" in package_list().splitlines()
    assert all(isinstance(value, str) and value for value in tags.values())


def test_another_version_of_any_package_changes_the_hash_of_packages(monkeypatch):
    before = environment()["packages"]
    assert environment()["packages"] == before
    monkeypatch.setattr(provenance, "package_list", lambda: package_list().replace("numpy==", "numpy==1"))
    assert environment()["packages"] != before


def test_the_command_is_told_as_a_shell_takes_it(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/venv/bin/raydistill", "run", "my job.yaml", "scaling.num_workers=2", "seed=7"])
    assert command() == "raydistill run 'my job.yaml' scaling.num_workers=2 seed=7"


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("tracking.uri=postgresql://me:hidden@host/runs", "'tracking.uri=postgresql://me:***@host/runs'"),
        ("https://me:hidden@host", "'https://me:***@host'"),
        ("corpus.source.token=hidden", "'corpus.source.token=***'"),
        ("a.access_token=hidden", "'a.access_token=***'"),
        ("a.hf-password=hidden", "'a.hf-password=***'"),
        ("binarize.tokenizer=some/folder", "binarize.tokenizer=some/folder"),
        ("data.num_tokens=5", "data.num_tokens=5"),
        ("monkey=5", "monkey=5"),
    ],
)
def test_a_told_command_has_no_secrets(typed, told):
    assert command(["raydistill", typed]) == f"raydistill {told}"
