"""What the command line tells when the storage fails, and where a traceback goes that the storage cannot take."""

import errno
import os
import tempfile
from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError, RayTaskError, WorkerCrashedError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError
from typer.testing import CliRunner

from raydistill.cli import app
from raydistill.job import preflight, record, run
from raydistill.user_error import UserError

JOB = """\
name: toy
storage: {storage}
stages:
  corpus: {{kind: binarize, source: {{name: text, path: texts/*.txt}}, tokenizer: some/folder}}
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A job file; its preflight accepts everything."""
    monkeypatch.setattr(preflight, "check_job", lambda job: [])
    path = tmp_path / "toy.yaml"
    path.write_text(JOB.format(storage=tmp_path / "runs"))
    return path


def run_raising(monkeypatch, job, make_error, *options):
    """What the command does when the job raises an error made from its folder."""

    def run_job(loaded, *, echo):
        folder = record.job_folder(loaded)
        folder.mkdir(parents=True, exist_ok=True)
        raise make_error(folder)

    monkeypatch.setattr(run, "run_job", run_job)
    return CliRunner().invoke(app, ["run", str(job), *options])


def test_what_a_user_can_fix_is_one_line_and_exits_2_when_ray_brings_it_from_a_task(job, monkeypatch, tmp_path):
    error = UserError("label is 'x'; give one", place="a.csv line 3")
    brought = RayTaskError("task", "Traceback ...", error).as_instanceof_cause()
    result = run_raising(monkeypatch, job, lambda folder: brought)
    assert (result.exit_code, result.stderr) == (2, "a.csv line 3: label is 'x'; give one\n")
    assert not list((tmp_path / "runs" / "toy").iterdir())


def full(folder: Path) -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "stage.json"))


def test_a_full_disk_is_one_line_that_tells_how_to_go_on_and_exits_2(job, monkeypatch, tmp_path):
    result = run_raising(monkeypatch, job, full)
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        f"storage {tmp_path}/runs is full (No space left on device): make room, "
        "then run the same command again; it continues"
    ]
    assert not list((tmp_path / "runs" / "toy").iterdir())


def test_debug_still_prints_the_traceback_of_a_full_disk(job, monkeypatch):
    assert "Traceback (most recent call last)" in run_raising(monkeypatch, job, full, "--debug").stderr


@pytest.mark.parametrize("refusing", [["runs"], ["runs", "tmp"]])
def test_a_traceback_goes_where_there_is_room_and_else_to_standard_error(job, monkeypatch, tmp_path, refusing):
    places = {"runs": tmp_path / "runs" / "toy", "tmp": tmp_path / "tmp"}
    places["tmp"].mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(places["tmp"]))
    monkeypatch.setattr("tempfile.mkstemp", mkstemp_on_full_disks([places[name] for name in refusing]))
    result = run_raising(monkeypatch, job, lambda folder: RuntimeError("worker 1 died"))
    assert result.exit_code == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("RuntimeError: worker 1 died")
    if "tmp" in refusing:
        assert "Traceback (most recent call last)" in result.stderr
        assert not list(places["tmp"].iterdir())
    else:
        (log,) = places["tmp"].iterdir()
        assert last.endswith(str(log))
        assert "Traceback" in log.read_text()
    assert not list(places["runs"].iterdir())


def mkstemp_on_full_disks(folders):
    """A ``mkstemp`` whose files in these folders take nothing."""
    mkstemp = tempfile.mkstemp

    def make(dir, prefix, suffix):
        descriptor, name = mkstemp(dir=dir, prefix=prefix, suffix=suffix)
        if Path(dir) in folders:
            os.close(descriptor)
            descriptor = os.open("/dev/full", os.O_WRONLY)
        return descriptor, name

    return make


def test_a_job_that_lost_a_figure_says_so_at_its_end_and_exits_1(job, monkeypatch, tmp_path):
    lost = "MLflow refused a record, kept in runs/tracking/toy/rejected.jsonl: 'bad' is bad"
    done = run.JobResult(tmp_path / "runs" / "toy", lost=lost)
    monkeypatch.setattr(run, "run_job", lambda loaded, *, echo: done)
    result = CliRunner().invoke(app, ["run", str(job)])
    assert (result.exit_code, result.stderr) == (1, f"everything ran, but {lost}\n")
    assert f"job     {tmp_path}/runs/toy" in result.stdout
    done.lost = ""
    assert CliRunner().invoke(app, ["run", str(job)]).exit_code == 0


@pytest.mark.parametrize(
    ("error", "is_gone"),
    [
        (ActorDiedError(), True),
        (ControllerError(ActorDiedError()), True),
        (WorkerGroupError("a worker failed", {0: WorkerCrashedError()}), True),
        (RayTaskError("task", "Traceback ...", TypeError("a fault of ours")).as_instanceof_cause(), False),
        (TypeError("a fault of ours"), False),
    ],
)
def test_where_a_process_of_ray_is_gone_the_line_says_so_and_how_to_go_on(job, monkeypatch, tmp_path, error, is_gone):
    result = run_raising(monkeypatch, job, lambda folder: error)
    assert result.exit_code == 1
    line = result.stderr.splitlines()[-1]
    said = (
        "; a process of Ray was killed, as by a lack of memory, or its machine is gone; "
        "the same command again continues where it stopped; the traceback is in "
    )
    assert (said in line) == is_gone
    assert f"; the traceback is in {tmp_path}/runs/toy/raydistill-error-" in line
