import json

import pytest
from typer.testing import CliRunner

from raydistill.cli import app
from raydistill.tracking import delivery as delivery_module
from raydistill.tracking import sync as sync_module
from raydistill.tracking.spool import Spool
from raydistill.tracking.store import Store, spool_folder, write_store
from raydistill.tracking.sync import find_spools
from toys.writer import ScriptedWriter


@pytest.fixture
def writer(monkeypatch):
    """The store that all spools of the test reach."""
    writer = ScriptedWriter()
    monkeypatch.setattr(delivery_module, "MlflowWriter", lambda store, runs_file: writer)
    monkeypatch.setattr(sync_module, "_PAUSE_S", 0.01)
    return writer


def fill(storage, experiment, numbers, *, job=None):
    """A spool in which records wait."""
    folder = spool_folder(storage, experiment, job or experiment)
    spool = Spool(folder)
    write_store(folder, Store("http://mlflow.example", None, experiment))
    for number in numbers:
        spool.append({"op": "set_tags", "key": "job", "number": number})
    spool.close()
    return folder


def track_sync(*arguments):
    return CliRunner().invoke(app, ["track-sync", *map(str, arguments)])


def test_all_that_waits_below_a_storage_folder_is_delivered_once(tmp_path, writer):
    first, second = fill(tmp_path, "a job", range(3)), fill(tmp_path, "b", range(10, 12))
    result = track_sync(tmp_path)
    assert result.exit_code == 0, result.output
    assert writer.taken == [0, 1, 2, 10, 11]
    assert result.stdout.splitlines() == [
        f"{first}: 3 delivered, 0 waiting, 0 rejected (http://mlflow.example)",
        f"{second}: 2 delivered, 0 waiting, 0 rejected (http://mlflow.example)",
    ]
    assert track_sync(tmp_path).exit_code == 0
    assert writer.taken == [0, 1, 2, 10, 11]


def test_the_default_is_the_folder_runs(tmp_path, writer, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "runs", "job", [1])
    assert track_sync().exit_code == 0
    assert writer.taken == [1]


@pytest.mark.parametrize(("experiment", "tracking"), [("demo", "{}"), ("an experiment", "{experiment: an experiment}")])
def test_a_jobs_folder_leads_to_its_spool(tmp_path, writer, experiment, tracking):
    folder = fill(tmp_path, experiment, [1])
    fill(tmp_path, "another", [2])
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "resolved.yaml").write_text(f"name: demo\ntracking: {tracking}\n")
    assert track_sync(tmp_path / "demo").exit_code == 0
    assert writer.taken == [1]
    assert track_sync(folder).exit_code == 0


def test_a_jobs_folder_leads_to_its_own_spool_and_to_what_older_releases_left_of_it(tmp_path, writer):
    shared, own = fill(tmp_path, "shared", [1]), fill(tmp_path, "shared", [2], job="demo")
    fill(tmp_path, "shared", [3], job="other")
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "resolved.yaml").write_text("name: demo\ntracking: {experiment: shared}\n")
    assert find_spools(tmp_path / "demo") == [shared, own]
    assert track_sync(tmp_path / "demo").exit_code == 0
    assert writer.taken == [1, 2]
    assert find_spools(tmp_path / "demo") == [own]
    assert track_sync(tmp_path).exit_code == 0
    assert writer.taken == [1, 2, 3]


def test_a_server_that_is_away_is_one_line_and_exits_1(tmp_path, writer):
    folder = fill(tmp_path, "job", range(3))
    writer.num_failures = 10**6
    result = track_sync(tmp_path)
    assert (result.exit_code, writer.requests) == (1, 1)
    (line,) = result.stderr.splitlines()
    assert line.startswith("http://mlflow.example takes no records (the server is away); 3 wait")
    assert line.endswith(f"raydistill track-sync {folder}")
    writer.num_failures = 0
    assert track_sync(tmp_path).exit_code == 0
    assert writer.taken == [0, 1, 2]


def test_one_failure_in_mid_delivery_is_tried_again(tmp_path, writer):
    fill(tmp_path, "job", range(5))
    deliver = writer.deliver

    def fail_once(record):
        writer.num_failures = int(record["number"] == 3 and writer.requests == 3)
        return deliver(record)

    writer.deliver = fail_once
    assert track_sync(tmp_path).exit_code == 0
    assert writer.taken == [0, 1, 2, 3, 4]


def test_rejected_records_are_counted_and_do_not_wait(tmp_path, writer):
    folder = fill(tmp_path, "job", range(3))
    writer.refused = (1,)
    result = track_sync(tmp_path, "--json")
    assert result.exit_code == 0
    (told,) = json.loads(result.stdout)
    assert {name: told[name] for name in ("spool", "delivered", "waiting", "rejected", "error")} == {
        "spool": str(folder),
        "delivered": 2,
        "waiting": 0,
        "rejected": 1,
        "error": None,
    }


def test_a_spool_that_a_job_uses_is_refused_and_the_others_are_delivered(tmp_path, writer):
    fill(tmp_path, "idle", [1])
    in_use = Spool(fill(tmp_path, "busy", [2]))
    result = track_sync(tmp_path)
    in_use.close()
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "busy is in use by a running job" in line
    assert writer.taken == [1]


def test_a_folder_without_spools_is_refused(tmp_path):
    result = track_sync(tmp_path / "none")
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        f"{tmp_path}/none has no records of runs; give the storage folder of a job, such as runs"
    ]


def test_another_store_that_lacks_the_runs_is_refused(tmp_path, writer):
    fill(tmp_path, "job", [1])
    writer.missing = ["job/train"]
    result = track_sync(tmp_path, "--to", "http://other")
    assert (result.exit_code, writer.taken) == (2, [])
    assert "http://other has no run of 'job/train'" in result.stderr
    writer.missing = []
    assert track_sync(tmp_path, "--to", "http://other").exit_code == 0
    assert writer.taken == [1]
