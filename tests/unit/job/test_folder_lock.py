"""One process at a time in the folder of a job or campaign."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from raydistill.cli import app
from raydistill.job import preflight, run
from toys.holder import held_elsewhere

JOB = """\
name: toy
storage: {storage}
stages:
  corpus: {{kind: binarize, source: {{name: text, path: texts/*.txt}}, tokenizer: some/folder}}
"""
Command = Callable[..., Result]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """``raydistill run`` of a job that its preflight accepts and that has nothing to do once it may begin."""
    monkeypatch.setattr(preflight, "check_job", lambda job: [])
    monkeypatch.setattr(run, "_run_in", lambda folder, job, echo: run.JobResult(folder))
    path = tmp_path / "toy.yaml"
    path.write_text(JOB.format(storage=tmp_path / "runs"))
    return lambda *options: CliRunner().invoke(app, ["run", str(path), *options])


@pytest.mark.parametrize("options", [[], ["tracking.experiment=another"], ["seed=8"]])
def test_a_job_that_runs_already_is_refused_in_one_line(tmp_path: Path, command: Command, options: list[str]) -> None:
    folder = tmp_path / "runs" / "toy"
    with held_elsewhere(folder / ".lock") as process:
        result = command(*options)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"job toy is already running in {folder} (process {process.pid} on host ")
    assert line.endswith("; wait until it ends, stop it, or set another name")


def test_another_job_of_the_same_storage_and_experiment_is_not_refused(tmp_path: Path, command: Command) -> None:
    with held_elsewhere(tmp_path / "runs" / "toy" / ".lock"):
        assert command("name=other", "tracking.experiment=toy").exit_code == 0


def test_a_job_runs_twice_in_a_row_and_after_one_that_was_killed(tmp_path: Path, command: Command) -> None:
    assert [command().exit_code for _ in range(2)] == [0, 0]
    with held_elsewhere(tmp_path / "runs" / "toy" / ".lock") as process:
        assert command().exit_code == 2
        process.kill()
        process.wait()
        assert command().exit_code == 0


def test_a_job_that_fails_frees_its_folder(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path, job: object, echo: object) -> None:
        raise ValueError("the text has no rows; give another one")

    with monkeypatch.context() as patch:
        patch.setattr(run, "_run_in", fail)
        assert command().exit_code != 0
    assert command().exit_code == 0
