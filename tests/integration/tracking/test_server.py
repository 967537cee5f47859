"""A real MLflow server that goes away in mid-delivery and comes back."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from integration.tracking.mlflow_server import Server
from raydistill.cli import app
from raydistill.tracking.delivery import Delivery
from raydistill.tracking.quiet import load_mlflow
from raydistill.tracking.store import Store, spool_folder

NUM_STEPS = 1500


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


def record(op: str, time_ms: int, **fields) -> dict:
    return {"op": op, "key": "job", "time": time_ms, **fields}


def fill(storage: Path, uri: str) -> tuple[Path, Delivery]:
    """A spool in which a run waits, and what delivers it."""
    folder = spool_folder(storage, "job", "job")
    delivery = Delivery(Store(uri, None, "job"), folder)
    delivery.remember_store()
    delivery.append(record("start_run", 1, name="job", parent=None, tags={"a": "b"}, resume=True, token="t"))
    delivery.append(record("log_params", 2, params={"seed": "1"}))
    for step in range(NUM_STEPS):
        delivery.append(
            record("log_metrics", 3 + step, step=step, metrics={"loss": float(step % 7), "nan": float("nan")})
        )
        if step % 100 == 0:
            delivery.append(record("set_tags", 3 + step, tags={"latest": str(step)}))
    delivery.append(record("log_text", 9, text="| a |", file="tables/a.md"))
    delivery.append(record("end_run", 10**6, status="FINISHED"))
    return folder, delivery


def track_sync(folder: Path):
    return CliRunner().invoke(app, ["track-sync", str(folder)])


def test_what_a_server_that_stopped_lacks_is_delivered_once_and_in_order(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    _, delivery = fill(tmp_path / "runs", server.uri)
    for _ in range(8):
        delivery.send_next()
    delivery.close()
    send_next, sent = Delivery.send_next, []

    def stop_after_five(delivery):
        # The server gets what follows, and answers when nobody listens any more.
        if len(sent) == 5:
            server.signal(signal.SIGSTOP)
        send_next(delivery)
        sent.append(1)

    with monkeypatch.context() as patch:
        patch.setattr(Delivery, "send_next", stop_after_five)
        result = track_sync(tmp_path / "runs")
    assert result.exit_code == 1, result.output
    assert len(result.stderr.splitlines()) == 1
    assert f"{server.uri} takes no records (timed out); " in result.stderr
    server.signal(signal.SIGCONT)
    result = track_sync(tmp_path / "runs")
    assert result.exit_code == 0, result.output
    assert "0 waiting, 0 rejected" in result.stdout
    client = load_mlflow().MlflowClient(server.uri)
    (run,) = client.search_runs([client.get_experiment_by_name("job").experiment_id])
    for name in ("loss", "nan"):
        history = client.get_metric_history(run.info.run_id, name)
        assert [(metric.step, metric.timestamp) for metric in history] == [
            (step, 3 + step) for step in range(NUM_STEPS)
        ]
    losses = client.get_metric_history(run.info.run_id, "loss")
    assert [metric.value for metric in losses] == [float(step % 7) for step in range(NUM_STEPS)]
    assert (run.info.status, run.info.end_time, run.data.params) == ("FINISHED", 10**6, {"seed": "1"})
    assert run.data.tags["latest"] == "1400"
    assert [file.path for file in client.list_artifacts(run.info.run_id, "tables")] == ["tables/a.md"]


def test_a_server_that_never_answers_is_one_line_and_everything_waits(tmp_path):
    folder, delivery = fill(tmp_path / "runs", "http://127.0.0.1:9")
    waiting = len(delivery.pending)
    delivery.close()
    begin = time.monotonic()
    result = track_sync(tmp_path / "runs")
    assert time.monotonic() - begin < 20
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        f"http://127.0.0.1:9 takes no records (Connection refused); {waiting} wait, when it answers run: "
        f"raydistill track-sync {folder}"
    ]
