import pickle

import numpy as np
import pytest

from raydistill.config.sections import TrackingConfig
from raydistill.tracking.tracker import MemoryTracker, NullTracker, flat, store_of


def test_memory_keeps_what_was_recorded_of_each_run():
    tracker = MemoryTracker()
    tracker.start_run("job", name="job")
    assert tracker.start_run("job/train", name="train", parent="job", tags={"kind": "train"}, wait=True) == "job/train"
    tracker.log_params("job/train", {"optimizer": {"learning_rate": 0.5}})
    tracker.log_metrics("job/train", {"loss": np.float32(2.0)}, 3)
    tracker.log_metrics("job/train", {"loss": 1.0}, step=4)
    tracker.log_text("job/train", "text", "notes/a.txt")
    tracker.end_run("job/train", "FAILED")
    run = tracker.runs["job/train"]
    assert (run.parent, run.params, run.tags) == ("job", {"optimizer.learning_rate": "0.5"}, {"kind": "train"})
    assert run.metrics == {"loss": [(3, 2.0), (4, 1.0)]}
    assert (run.artifacts, run.status) == (["notes/a.txt"], "FAILED")
    assert tracker.runs["job"].status == "RUNNING"


def test_resuming_keeps_a_run_and_starting_replaces_it():
    tracker = MemoryTracker()
    tracker.start_run("job")
    tracker.log_params("job", {"a": 1})
    tracker.start_run("job", resume=True)
    assert tracker.runs["job"].params == {"a": "1"}
    tracker.start_run("job")
    assert tracker.runs["job"].params == {}


def test_the_null_tracker_takes_everything_and_can_be_pickled():
    tracker = pickle.loads(pickle.dumps(NullTracker()))
    assert tracker.start_run("job", wait=True) is None
    tracker.log_metrics("job", {"loss": 1.0}, 0)
    assert tracker.register_model("job", "folder", name="student") is None
    assert tracker.flush()


def test_flat_joins_keys_with_dots():
    assert flat({"a": {"b": {"c": 1}}, "d": [2]}) == {"a.b.c": 1, "d": [2]}


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
