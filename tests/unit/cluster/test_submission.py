"""What goes to a cluster with a job, and what is refused before."""

import json
import os
import zipfile
from types import SimpleNamespace

import pytest
import yaml

from raydistill.cluster import submission, uploads
from raydistill.cluster.submission import JOB_KEY, again, prepare, submit
from raydistill.user_error import UserError


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A job that names texts and a model of the working folder."""
    folder = tmp_path / "project"
    (folder / "texts").mkdir(parents=True)
    (folder / "texts" / "a.txt").write_text("one")
    (folder / "texts" / "b.txt").write_text("two")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    (folder / "large.bin").write_text("not named by the job")
    monkeypatch.chdir(folder)
    return {
        "name": "toy",
        "storage": str(tmp_path / "shared"),
        "tracking": {"uri": None},
        "stages": {
            "corpus": {"source": {"name": "text", "path": "texts/*.txt"}, "tokenizer": {"checkpoint": "model"}},
        },
    }


class Cluster:
    """Stands in for the job API."""

    address = "http://head:8265"

    def __init__(self, *jobs):
        self.known, self.submitted = list(jobs), []

    def jobs(self):
        return self.known

    def submit(self, **arguments):
        with zipfile.ZipFile(arguments["runtime_env"]["working_dir"]) as package:
            names = package.namelist()
        self.submitted.append({**arguments, "names": names})
        return arguments["submission_id"]


def known(made, **values):
    """How a cluster tells of a submission."""
    defaults = {
        "submission_id": "toy-1",
        "status": "FAILED",
        "metadata": made.metadata,
        "runtime_env": {"env_vars": {"OTHER": "y"}},
    }
    return SimpleNamespace(**{**defaults, **values})


def test_each_local_place_is_refused_in_a_line_with_its_key(job):
    with pytest.raises(UserError) as refusal:
        prepare(job)
    first, second = refusal.value.lines
    assert first.startswith("stages.corpus.source.path is 'texts/*.txt', on this machine (6 bytes)")
    assert second.startswith("stages.corpus.tokenizer.checkpoint is 'model', on this machine")
    assert all("--upload" in line and "--shared" in line for line in refusal.value.lines)


def test_folders_that_the_cluster_sees_are_not_refused(job, tmp_path):
    assert prepare(job, shared=[str(tmp_path / "project")]).job == job
    job["stages"]["corpus"]["source"]["path"] = str(tmp_path / "shared" / "*.txt")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "a.txt").write_text("")
    assert len(_lines(job)) == 1


def _lines(job, **options):
    with pytest.raises(UserError) as refusal:
        prepare(job, **options)
    return refusal.value.lines


@pytest.mark.parametrize("storage", ["runs", "./runs", "~/runs"])
def test_a_storage_of_this_machine_is_refused_with_uploads_too(job, storage):
    [line] = _lines({**job, "storage": storage}, upload=True)
    assert line.startswith(f"storage is '{storage}', a folder of this machine")
    assert "storage=/shared/runs" in line


@pytest.mark.parametrize("uri", ["mlruns", "sqlite:///mlflow.db"])
def test_a_tracking_store_of_this_machine_is_refused(job, uri):
    [line] = _lines({**job, "tracking": {"uri": uri}}, upload=True)
    assert line.startswith(f"tracking.uri is '{uri}', a place on this machine")


@pytest.mark.parametrize("uri", ["http://mlflow:5000", "sqlite:////shared/mlflow.db", "/shared/mlruns", None])
def test_other_tracking_stores_are_taken(job, uri):
    assert prepare({**job, "tracking": {"uri": uri}}, upload=True)


def test_uploads_need_a_storage_that_is_a_folder(job):
    tracking = {"uri": "http://mlflow:5000"}
    [line] = _lines({**job, "storage": "s3://bucket/runs", "tracking": tracking}, upload=True)
    assert "s3://bucket/runs" in line


def test_too_much_to_upload_is_refused(job, monkeypatch):
    monkeypatch.setattr(uploads, "MOST_BYTES", 5)
    with pytest.raises(ValueError, match=r"--upload takes 0 MiB.*stages\.corpus\.source\.path"):
        prepare(job, upload=True)


def test_only_what_the_job_names_goes_along(job):
    api = Cluster()
    made = prepare(job, upload=True)
    job_id = submit(api, made)
    [sent] = api.submitted
    names = {name.split("/", 2)[-1] for name in sent["names"]}
    assert names == {"job.yaml", "times.json", "texts/a.txt", "texts/b.txt", "model/config.json"}
    assert job_id.startswith("toy-")
    assert sent["entrypoint"].endswith("exec python -m raydistill run job.yaml")
    assert sent["runtime_env"]["env_vars"]["RAY_JOB_STOP_SIGNAL"] == "SIGINT"


def test_the_package_goes_along_without_bytecode_unless_it_is_installed_there(job):
    with prepare(job, upload=True).runtime_env() as environment:
        [package] = environment["py_modules"]
        files = {str(path) for _, _, names in os.walk(package, followlinks=True) for path in names}
        assert package.endswith("/raydistill")
        assert "cli.py" in files
        assert not [name for name in files if name.endswith(".pyc")]
    with prepare(job, upload=True, installed=True).runtime_env() as environment:
        assert "py_modules" not in environment


def test_uploads_have_the_same_place_in_the_storage_whatever_else_changes(job, tmp_path):
    before = prepare(job, upload=True).job["stages"]["corpus"]
    (tmp_path / "project" / "texts" / "a.txt").write_text("changed")
    after = prepare(job, upload=True).job["stages"]["corpus"]
    assert after["tokenizer"] == before["tokenizer"]
    assert after["source"]["path"] != before["source"]["path"]
    assert after["source"]["path"].startswith(f"{tmp_path}/shared/uploads/")
    assert after["source"]["path"].endswith("/texts/*.txt")


def test_placed_uploads_keep_names_content_and_times_and_are_placed_once(job, tmp_path, monkeypatch):
    os.utime("texts/a.txt", ns=(10**18, 10**18))
    made = prepare(job, upload=True)
    with made.runtime_env() as environment:
        zipfile.ZipFile(environment["working_dir"]).extractall(tmp_path / "node")
    monkeypatch.chdir(tmp_path / "node")
    target = tmp_path / "shared" / "uploads"
    assert uploads.main([str(target), *made.digests]) == 0
    found = list(target.glob("*/texts/a.txt"))
    assert [path.read_text() for path in found] == ["one"]
    assert found[0].stat().st_mtime_ns == 10**18
    assert made.job["stages"]["corpus"]["source"]["path"] == str(found[0].parent / "*.txt")
    found[0].write_text("kept")
    assert uploads.main([str(target), *made.digests]) == 0
    assert found[0].read_text() == "kept"
    assert not [path for path in target.iterdir() if path.name.startswith(".")]


def test_uploads_that_are_nowhere_end_the_job_with_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert uploads.main([str(tmp_path / "uploads"), "0" * 16]) == 2
    assert "is missing; submit the job's file again with --upload" in capsys.readouterr().err


def test_equal_jobs_make_equal_packages(job, tmp_path):
    contents = []
    for _ in range(2):
        with prepare(job, upload=True).runtime_env() as environment, open(environment["working_dir"], "rb") as file:
            contents.append(file.read())
    assert contents[0] == contents[1]


def test_a_job_that_runs_already_is_not_started_again(job):
    made = prepare(job, upload=True)
    for status, is_refused in (("RUNNING", True), ("PENDING", True), ("FAILED", False), ("STOPPED", False)):
        api = Cluster(known(made, status=status))
        if is_refused:
            with pytest.raises(ValueError, match=r"toy is already running as toy-1 .* raydistill stop toy-1"):
                submit(api, made)
        else:
            submit(api, made)
        assert bool(api.submitted) is not is_refused
    other = prepare({**job, "name": "other"}, upload=True)
    assert submit(Cluster(known(made, status="RUNNING")), other)


def test_a_resumed_job_is_the_same_without_its_files(job):
    made = prepare(job, upload=True, installed=True, variables={"TOKEN": "x"})
    resumed = again(known(made), {"TOKEN": "y"})
    assert resumed.metadata == made.metadata
    assert resumed.entrypoint == made.entrypoint
    assert resumed.variables == {"TOKEN": "y"}
    assert again(known(made), environment={"TOKEN": "z", "OTHER": "a"}).variables == {"TOKEN": "z"}
    api = Cluster()
    submit(api, resumed)
    assert api.submitted[0]["names"] == ["job.yaml", "variables.json"]


def test_a_resumed_job_asks_for_the_variables_that_are_kept_nowhere(job):
    made = prepare(job, upload=True, installed=True, variables={"TOKEN": "x"})
    with pytest.raises(ValueError, match=r"toy-1 was submitted with --env TOKEN, .* add --env TOKEN=VALUE"):
        again(known(made), environment={})
    # An older release had them where Ray keeps them.
    older = known(made, runtime_env={"env_vars": {"TOKEN": "x", "OTHER": "y"}})
    assert again(older, environment={}).variables == {"TOKEN": "x"}


def test_a_job_that_runs_or_is_not_ours_is_not_resumed(job):
    made = prepare(job, upload=True)
    with pytest.raises(ValueError, match=r"toy-1 has not ended \(it is RUNNING\)"):
        again(known(made, status="RUNNING"))
    with pytest.raises(ValueError, match="toy-1 was not submitted by raydistill"):
        again(known(made, metadata={"job": "other"}))


def test_metadata_are_texts_and_hold_the_whole_job(job):
    made = prepare(job, upload=True, variables={"SECRET": "value"})
    assert all(isinstance(value, str) for value in made.metadata.values())
    assert yaml.safe_load(made.metadata[JOB_KEY]) == made.job
    assert "value" not in json.dumps(made.metadata)
    assert submission.JOB_KEY in made.metadata
