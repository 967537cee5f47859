import json
import os
import signal
import sqlite3
import time
from pathlib import Path

import pytest
import ray

from raydistill.config.sections import TrackingConfig
from raydistill.tracking.quiet import load_mlflow
from raydistill.tracking.spool import Spool
from raydistill.tracking.tracker import start_tracker

AWAY = TrackingConfig(uri="http://127.0.0.1:9")


def client_of(tracker):
    return load_mlflow().MlflowClient(tracker.uri)


def runs_of(tracker) -> dict[str, str]:
    return json.loads((Path(tracker.folder) / "runs.json").read_text())


@ray.remote(num_cpus=0)
def record_from_elsewhere(tracker) -> None:
    for step in range(50):
        tracker.log_metrics("job/train", {"loss": 50.0 - step, "rate": float(step)}, step)


@pytest.mark.core
@pytest.mark.usefixtures("ray_cluster")
def test_records_of_driver_and_workers_reach_mlflow_and_a_second_tracker_resumes(tmp_path):
    tracker = start_tracker(TrackingConfig(), folder=str(tmp_path), job="first job")
    (tmp_path / "resolved.yaml").write_text("a: 1")
    tracker.start_run("job", name="job", tags={"job": "demo"})
    run_id = tracker.start_run("job/train", name="train", parent="job", wait=True)
    tracker.log_params("job/train", {"optimizer": {"learning_rate": 0.5}})
    tracker.log_artifact("job", str(tmp_path / "resolved.yaml"), "config")
    tracker.log_text("job", "| a |", "tables/a.md")
    ray.get(record_from_elsewhere.remote(tracker))
    tracker.end_run("job/train")
    assert tracker.flush()
    client, parent = client_of(tracker), runs_of(tracker)["job"]
    run = client.get_run(run_id)
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.data.params == {"optimizer.learning_rate": "0.5"}
    assert [metric.value for metric in client.get_metric_history(run_id, "loss")] == [50.0 - step for step in range(50)]
    assert (run.info.status, client.get_run(parent).info.status) == ("FINISHED", "RUNNING")
    artifacts = Path(client.get_run(parent).info.artifact_uri.removeprefix("file://"))
    assert artifacts.is_relative_to(tmp_path / "artifacts")
    assert (artifacts / "config" / "resolved.yaml").read_text() == "a: 1"
    assert (artifacts / "tables" / "a.md").read_text() == "| a |"
    ray.kill(tracker._actor)

    again = start_tracker(TrackingConfig(), folder=str(tmp_path), job="first job")
    assert again.start_run("job/train", resume=True, wait=True) == run_id
    again.log_params("job/train", {"optimizer": {"learning_rate": 0.25}, "seed": 1})
    assert again.start_run("job", wait=True) != parent
    assert again.flush()
    resumed = client.get_run(run_id)
    assert resumed.info.status == "RUNNING"
    assert resumed.data.params == {"optimizer.learning_rate": "0.5", "seed": "1"}
    assert resumed.data.tags["changed.optimizer.learning_rate"] == "0.25"
    ray.kill(again._actor)


@pytest.mark.usefixtures("ray_cluster")
def test_what_a_store_could_not_take_is_delivered_by_the_next_tracker(tmp_path, monkeypatch):
    tracker = start_tracker(AWAY, folder=str(tmp_path), job="job")
    tracker.start_run("job", name="job")
    tracker.log_metrics("job", {"loss": 3.0}, 0)
    assert not tracker.flush(timeout_s=1.0)
    monkeypatch.setattr("raydistill.tracking.tracker._OPENING_S", 1.0)
    with pytest.raises(ValueError, match=r"tracking\.uri 'http://127\.0\.0\.1:9' cannot be opened: Connection refused"):
        tracker.ready()
    ray.kill(tracker._actor)
    again = start_tracker(TrackingConfig(), folder=str(tmp_path), job="job")
    assert again.flush()
    assert client_of(again).get_run(runs_of(again)["job"]).data.metrics == {"loss": 3.0}
    again.log_metrics("a run that never started", {"loss": 1.0}, 0)
    again.set_tags("job", {"later": "yes"})
    assert not again.flush()
    assert client_of(again).get_run(runs_of(again)["job"]).data.tags["later"] == "yes"
    with pytest.raises(ValueError, match="no config"):
        again.register_model("job", str(tmp_path), name="student")
    ray.kill(again._actor)


@pytest.mark.usefixtures("ray_cluster")
def test_two_jobs_of_one_experiment_record_all_of_their_runs_side_by_side(tmp_path):
    shared = TrackingConfig(experiment="shared")
    trackers = {job: start_tracker(shared, folder=str(tmp_path), job=job) for job in ("a", "b", "shared")}
    for job, tracker in trackers.items():
        tracker.start_run(f"{job}/job", name=job)
    for step in range(20):
        for job, tracker in trackers.items():
            tracker.log_metrics(f"{job}/job", {"loss": float(step)}, step)
    for tracker in trackers.values():
        tracker.ready()
    for job, tracker in trackers.items():
        tracker.end_run(f"{job}/job")
        assert tracker.flush()
    client = client_of(trackers["a"])
    runs = client.search_runs([client.get_experiment_by_name("shared").experiment_id])
    assert {run.info.run_name: run.info.status for run in runs} == dict.fromkeys(trackers, "FINISHED")
    for run in runs:
        assert [metric.step for metric in client.get_metric_history(run.info.run_id, "loss")] == list(range(20))
    for tracker in trackers.values():
        tracker.close()


@pytest.mark.usefixtures("ray_cluster")
def test_a_job_goes_on_with_the_run_and_the_records_that_an_older_release_left_in_its_experiments_spool(tmp_path):
    config = TrackingConfig(experiment="shared")
    # Older releases kept the records of every job where now those of the job of the experiment's name are.
    older = start_tracker(config, folder=str(tmp_path), job="shared")
    run_id = older.start_run("toy/job", name="toy", wait=True)
    older.close()
    spool = Spool(Path(older.folder))
    spool.append({"op": "log_metrics", "key": "toy/job", "time": 5, "metrics": {"loss": 3.0}, "step": 0})
    spool.close()
    again = start_tracker(config, folder=str(tmp_path), job="toy")
    assert again.folder != older.folder
    assert again.start_run("toy/job", name="toy", resume=True, wait=True) == run_id
    assert client_of(again).get_run(run_id).data.metrics == {"loss": 3.0}
    again.close()


@pytest.mark.usefixtures("ray_cluster")
def test_a_half_made_store_is_told_at_once(tmp_path):
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("CREATE TABLE _alembic_tmp_experiments (experiment_id INTEGER)")
    tracker = start_tracker(TrackingConfig(), folder=str(tmp_path), job="job")
    with pytest.raises(ValueError, match=r"cannot start: .*mlflow\.db was left half made .*: move it away"):
        tracker.ready()
    tracker.close()


@pytest.mark.usefixtures("ray_cluster")
def test_a_tracker_that_is_killed_goes_on_without_loss_or_repetition(tmp_path):
    tracker = start_tracker(TrackingConfig(), folder=str(tmp_path), job="job")
    run_id = tracker.start_run("job", name="job", wait=True)
    for step in range(300):
        tracker.log_metrics("job", {"loss": float(step % 7)}, step)
        if step in (50, 200):
            os.kill(process_of(tmp_path), signal.SIGKILL)
    assert tracker.flush(timeout_s=300.0)
    history = client_of(tracker).get_metric_history(run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(step, float(step % 7)) for step in range(300)]
    tracker.close()
    assert not [path for path in Path(tracker.folder).glob("records-*.jsonl") if path.stat().st_size]


@pytest.mark.usefixtures("ray_cluster")
def test_what_is_spooled_is_delivered_by_the_next_tracker_though_both_processes_are_killed(tmp_path):
    tracker = start_tracker(AWAY, folder=str(tmp_path), job="job")
    tracker.start_run("job", name="job")
    tracker.wait_until_spooled()
    os.kill(process_of(tmp_path), signal.SIGKILL)
    for step in range(100):
        tracker.log_metrics("job", {"loss": 1.0}, step)
    tracker.wait_until_spooled()
    ray.kill(tracker._actor)
    lines = [line for file in Path(tracker.folder).glob("records-*.jsonl") for line in file.read_text().splitlines()]
    steps = [record["step"] for record in map(json.loads, lines) if record["op"] == "log_metrics"]
    assert sorted(steps) == list(range(100))


@pytest.mark.usefixtures("ray_cluster")
def test_calls_of_a_tracker_that_is_gone_return_at_once_and_raise_nothing(tmp_path, caplog):
    tracker = start_tracker(AWAY, folder=str(tmp_path), job="job")
    tracker.start_run("job", name="job")
    ray.get(tracker._actor.last.remote())
    ray.kill(tracker._actor)
    begin = time.monotonic()
    for step in range(100):
        tracker.log_metrics("job", {"loss": 1.0}, step)
    tracker.end_run("job")
    assert time.monotonic() - begin < 5
    assert not tracker.flush(timeout_s=5.0)
    assert f"raydistill track-sync {tracker.folder}" in caplog.text
    with pytest.raises(ValueError, match="run the same command again"):
        tracker.register_model("job", str(tmp_path), name="student")
    tracker.close(timeout_s=5.0)


def process_of(storage: Path) -> int:
    """The process that holds the lock of the spool, once there is one."""
    lock = storage / "tracking" / "job" / "lock"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if "FLOCK" in fields and fields[-3].endswith(f":{lock.stat().st_ino}"):
                return int(fields[-4])
        time.sleep(0.1)
    raise AssertionError("nobody holds the lock")
