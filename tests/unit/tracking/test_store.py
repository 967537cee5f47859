from pathlib import Path

import pytest

from raydistill.config.sections import TrackingConfig
from raydistill.tracking.store import (
    Store,
    database_file,
    read_store,
    spool_folder,
    store_of,
    without_secrets,
    write_store,
)


def test_by_default_runs_and_artifacts_lie_below_the_folder(tmp_path):
    store = store_of(TrackingConfig(), tmp_path, "experiment")
    assert store.uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert store.artifact_location == f"file://{tmp_path}/artifacts"


@pytest.mark.parametrize("uri", ["http://mlflow.example:5000", "databricks"])
def test_a_server_decides_where_its_artifacts_lie(tmp_path, uri):
    assert store_of(TrackingConfig(uri=uri), tmp_path, "experiment").artifact_location is None


@pytest.mark.parametrize("uri", ["sqlite:////elsewhere/runs.db", "postgresql+psycopg2://host/runs"])
def test_a_database_without_a_server_gets_an_absolute_artifact_folder(tmp_path, uri):
    store = store_of(TrackingConfig(uri=uri), tmp_path, "experiment")
    assert (store.uri, store.artifact_location) == (uri, f"file://{tmp_path}/artifacts")


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("sqlite:////runs/mlflow.db", "sqlite:////runs/mlflow.db"),
        ("sqlite:////runs/mlflow.db?timeout=5", "sqlite:////runs/mlflow.db?timeout=5"),
        ("http://mlflow.example:5000/a", "http://mlflow.example:5000/a"),
        ("https://me@mlflow.example", "https://me@mlflow.example"),
        ("https://me:hidden@mlflow.example:5000/a", "https://me:***@mlflow.example:5000/a"),
        ("https://:hidden@mlflow.example", "https://:***@mlflow.example"),
        ("postgresql://me:h%40den@host/runs?sslpassword=b&a=c", "postgresql://me:***@host/runs?sslpassword=***&a=c"),
        ("databricks", "databricks"),
    ],
)
def test_a_told_uri_has_no_password(uri, told):
    assert without_secrets(uri) == told


def test_a_spool_tells_its_store(tmp_path):
    store = Store("http://mlflow.example:5000", None, "a job")
    write_store(tmp_path, store)
    assert read_store(tmp_path) == store


def test_a_password_is_not_kept_but_taken_from_the_environment(tmp_path):
    uri = "postgresql://me:hidden@host/runs"
    write_store(tmp_path, Store(uri, "file:///artifacts", "a job"))
    assert not [path for path in tmp_path.iterdir() if "hidden" in path.read_text()]
    assert read_store(tmp_path, environment={"MLFLOW_TRACKING_URI": uri}) == Store(uri, "file:///artifacts", "a job")
    for other in ({}, {"MLFLOW_TRACKING_URI": "postgresql://me:hidden@other/runs"}):
        with pytest.raises(ValueError, match="whose password is not kept; set MLFLOW_TRACKING_URI"):
            read_store(tmp_path, environment=other)


def test_a_store_that_moved_keeps_its_experiment(tmp_path):
    write_store(tmp_path, Store("sqlite:////old.db", "file:///artifacts", "a job"))
    assert read_store(tmp_path, to="sqlite:////new.db") == Store("sqlite:////new.db", "file:///artifacts", "a job")
    assert read_store(tmp_path, to="http://server") == Store("http://server", None, "a job")


def test_a_spool_without_a_note_of_its_store_needs_an_address(tmp_path):
    folder = spool_folder(tmp_path, "a/b c", "a/b c")
    folder.mkdir(parents=True)
    with pytest.raises(ValueError, match="add --to URI"):
        read_store(folder)
    assert read_store(folder, to="http://server") == Store("http://server", None, "a/b c")
    own = spool_folder(tmp_path, "a/b c", "demo")
    assert read_store(own, to="http://server") == Store("http://server", None, "a/b c")


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:////runs/mlflow.db", "/runs/mlflow.db"),
        ("sqlite+pysqlite:////runs/mlflow.db?timeout=5", "/runs/mlflow.db"),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
        ("postgresql://host/runs", None),
        ("http://mlflow.example:5000/a", None),
        ("databricks", None),
    ],
)
def test_a_sqlite_store_is_a_file_and_others_are_none(uri, file):
    assert database_file(uri) == (file and Path(file))
