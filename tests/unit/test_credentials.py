"""Secrets are references in a job and stars everywhere else."""

import json
import os
import subprocess
import sys
import time
import zipfile

import pytest
import yaml
from typer.testing import CliRunner

from raydistill import credentials
from raydistill.cli import app
from raydistill.cluster.manifest import manifest_text, manifests
from raydistill.cluster.submission import place_problems, prepare
from raydistill.commands.reporting import reported
from raydistill.config.sections import TrackingConfig
from raydistill.credentials import free_of_secrets, resolved, starred, without_secrets
from raydistill.job.load import load_job
from raydistill.job.preflight import check_job
from raydistill.job.record import job_folder
from raydistill.job.run import _write_resolved
from raydistill.tracking.store import Store, read_store, store_of, write_store
from raydistill.user_error import UserError

REFERENCE = "postgresql://me:${env:MLFLOW_PASSWORD}@db.example/runs"
CLEAR = "postgresql://me:hunter2@db.example/runs"
STAGES = {"corpus": {"kind": "binarize", "source": {"name": "text", "path": "texts/*.txt"}, "tokenizer": "some/folder"}}


def job(tmp_path, uri: str = REFERENCE):
    return load_job({"name": "toy", "storage": str(tmp_path / "runs"), "tracking": {"uri": uri}, "stages": STAGES})


def test_a_password_in_a_job_is_refused_with_the_remedy_and_without_the_password(tmp_path):
    with pytest.raises(UserError) as refusal:
        job(tmp_path, CLEAR)
    assert refusal.value.lines == [
        "tracking.uri is 'postgresql://me:***@db.example/runs'; it holds a password, which would be written to files; "
        "write ${env:NAME} in its place and set that variable, or ${file:PATH}"
    ]
    with pytest.raises(UserError) as refusal:
        load_job({"name": "toy", "tracking": CLEAR, "stages": STAGES})
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize("uri", ["http://h:5000", "sqlite:////a/b.db", REFERENCE, "${file:~/uri}", "file:///a?x=1"])
def test_addresses_without_a_password_are_taken(uri):
    assert free_of_secrets(uri) == uri


@pytest.mark.parametrize("uri", [CLEAR, "https://h/x?access_token=abc", "https://u:p${env:A}@h"])
def test_addresses_with_a_part_of_a_password_are_not_taken(uri):
    with pytest.raises(ValueError, match="it holds a password"):
        free_of_secrets(uri)


def test_what_a_job_writes_and_sends_holds_the_reference_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_PASSWORD", "hunter2")
    loaded = job(tmp_path)
    folder = job_folder(loaded)
    folder.mkdir(parents=True)
    written = _write_resolved(loaded, folder).read_text()
    made = prepare(loaded.dump(), installed=True, variables={"MLFLOW_PASSWORD": "hunter2"})
    documents = manifests(made, image="me/raydistill:1", claim="runs")
    config_map, ray_job, secret = documents
    for text in (written, str(made.metadata), made.entrypoint, str(config_map), str(ray_job)):
        assert "hunter2" not in text
    assert yaml.safe_load(written)["tracking"]["uri"] == REFERENCE
    assert yaml.safe_load(config_map["data"]["job.yaml"])["tracking"]["uri"] == REFERENCE
    assert secret["kind"] == "Secret"
    assert secret["stringData"] == {"MLFLOW_PASSWORD": "hunter2"}
    spec = ray_job["spec"]["rayClusterSpec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        [container] = group["template"]["spec"]["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": secret["metadata"]["name"]}}]
    assert list(yaml.safe_load_all(manifest_text(documents))) == documents


def test_the_variables_of_a_submitted_job_go_in_a_file_of_its_owner_and_into_no_runtime_environment(tmp_path):
    made = prepare(job(tmp_path).dump(), installed=True, variables={"MLFLOW_PASSWORD": "hunter2"})
    with made.runtime_env() as environment, zipfile.ZipFile(environment["working_dir"]) as archive:
        assert "hunter2" not in str(environment)
        assert json.loads(archive.read(credentials.VARIABLES)) == {"MLFLOW_PASSWORD": "hunter2"}
        assert archive.getinfo(credentials.VARIABLES).external_attr >> 16 == 0o600
        assert "hunter2" not in archive.read("job.yaml").decode()
    assert made.entrypoint == "exec python -m raydistill.credentials python -m raydistill run job.yaml"


def test_a_submitted_job_runs_with_its_variables(tmp_path):
    (tmp_path / credentials.VARIABLES).write_text(json.dumps({"MLFLOW_PASSWORD": "hunter2"}))
    command = [sys.executable, "-c", "import os; print(os.environ['MLFLOW_PASSWORD'])"]
    done = subprocess.run(
        [sys.executable, "-m", "raydistill.credentials", *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout == "hunter2\n"


def test_references_are_resolved_where_the_store_is_opened_and_nowhere_before(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_PASSWORD", "p@ss/word")
    store = store_of(TrackingConfig(uri=REFERENCE), tmp_path, "runs")
    assert store.uri == "postgresql://me:p%40ss%2Fword@db.example/runs"
    (tmp_path / "password").write_text("hunter2\n")
    uri = f"http://me:${{file:{tmp_path}/password}}@h:5000"
    assert store_of(TrackingConfig(uri=uri), tmp_path, "runs").uri == "http://me:hunter2@h:5000"
    assert resolved("${env:URI}", key="tracking.uri", environment={"URI": CLEAR}) == CLEAR


def test_a_reference_to_nothing_is_one_line_of_the_preflight(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_PASSWORD", raising=False)
    with pytest.raises(UserError) as refusal:
        check_job(job(tmp_path))
    assert "tracking.uri refers to the variable MLFLOW_PASSWORD, which is not set; set it" in refusal.value.lines
    with pytest.raises(ValueError, match=r"refers to the file /none, which cannot be read \(No such file"):
        resolved("${file:/none}", key="tracking.uri")


def test_records_that_wait_note_the_reference_and_are_delivered_by_it(tmp_path):
    write_store(tmp_path, Store("postgresql://me:hunter2@db.example/runs", None, "runs", reference=REFERENCE))
    assert "hunter2" not in (tmp_path / "store.json").read_text()
    found = read_store(tmp_path, environment={"MLFLOW_PASSWORD": "hunter2"})
    assert found.uri == CLEAR
    with pytest.raises(ValueError, match="refers to the variable MLFLOW_PASSWORD"):
        read_store(tmp_path, environment={})


def test_a_reference_is_no_place_of_this_machine():
    assert place_problems({"storage": "/shared", "tracking": {"uri": "${env:MLFLOW_URI}"}}) == []


def test_tracebacks_and_unexpected_errors_tell_no_password(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for debug in (False, True):
        with pytest.raises(BaseException, match="1"), reported(debug=debug):
            raise RuntimeError(f"connection to {CLEAR} lost")
    [log] = tmp_path.glob("raydistill-error-*.log")
    told = capsys.readouterr().err + log.read_text()
    assert "hunter2" not in told
    assert told.count("connection to postgresql://me:***@db.example/runs lost") >= 2
    assert log.stat().st_mode & 0o777 == 0o600


def test_stars_stand_for_every_password_in_a_text_and_nothing_else_changes():
    text = f"a {CLEAR}, b https://h/x?token=t&a=1 and s3://bucket/x@y"
    assert starred(text) == "a postgresql://me:***@db.example/runs, b https://h/x?token=***&a=1 and s3://bucket/x@y"
    assert without_secrets(REFERENCE) == "postgresql://me:***@db.example/runs"


def test_the_command_line_refuses_a_password_as_an_override(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump({"name": "toy", "stages": STAGES}))
    result = CliRunner().invoke(app, ["run", str(path), f"tracking.uri={CLEAR}"])
    assert result.exit_code == 2
    assert "hunter2" not in result.output
    assert "write ${env:NAME} in its place" in result.output


def test_a_text_of_one_long_word_is_starred_at_once():
    start = time.process_time()
    assert starred("x" * 1_000_000 + " https://me:pw@h/x") == "x" * 1_000_000 + " https://me:***@h/x"
    assert time.process_time() - start < 5
