import pickle

import numpy as np

from raydistill.tracking.tracker import NullTracker, flat
from toys.tracker import MemoryTracker


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
