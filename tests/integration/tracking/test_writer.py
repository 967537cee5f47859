"""What MLflow is given of a run's names, parameters and metrics."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
import pytest

from raydistill.config.sections import TrackingConfig
from raydistill.tracking.store import Store, store_of
from raydistill.tracking.writer import MlflowWriter


def test_names_that_mlflow_does_not_take_are_changed_and_others_are_not(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    writer = MlflowWriter(Store(uri, (tmp_path / "artifacts").as_uri(), "names"), tmp_path / "runs.json")
    start = {"op": "start_run", "key": "job", "name": "job", "parent": None, "tags": {}, "resume": False, "token": "a"}
    run_id = writer.deliver({**start, "time": 1})
    params = {"models.teachers, all.head": "pretrained", "models.one (a=1).head": "new", "optimizer.learning_rate": "1"}
    for record in (params, params | {"models.teachers, all.head": "new"}):
        writer.deliver({"op": "log_params", "key": "job", "params": record, "time": 2})
    run = mlflow.MlflowClient(uri).get_run(run_id)
    assert run.data.params == {
        "models.teachers_ all.head": "pretrained",
        "models.one _a_1_.head": "new",
        "optimizer.learning_rate": "1",
    }
    assert run.data.tags["changed.models.teachers_ all.head"] == "new"


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> MlflowWriter:
    """A writer of a storage whose bucket has a quote in its path."""
    root = tmp_path_factory.mktemp("store")
    store = Store(f"sqlite:///{root / 'mlflow.db'}", (root / "artifacts").as_uri(), "names", "s3://bucket/it's/runs")
    return MlflowWriter(store, root / "runs.json")


def start(key: str, **options: Any) -> dict[str, Any]:
    usual = {"op": "start_run", "name": key, "parent": None, "tags": {}, "resume": False, "token": key, "time": 1}
    return {**usual, "key": key, **options}


def test_a_run_whose_key_and_storage_have_quotes_is_found_again(writer: MlflowWriter) -> None:
    key = "job/distill[path='it'] \"x\"-1a2b"
    run_id = writer.deliver(start(key, name="n" * 300, token="first"))
    writer._runs.clear()
    assert writer.deliver(start(key, resume=True, token="second")) == run_id
    assert len(writer._client.get_run(run_id).info.run_name) == 250


def test_a_stage_with_a_model_of_any_name_keeps_all_of_its_parameters(writer: MlflowWriter) -> None:
    run_id = writer.deliver(start("any name"))
    models = {"a//b": "x", "m" * 250: "y", "Учитель": "z", "../up": "u"}
    params = {f"models.{name}.checkpoint": value for name, value in models.items()} | {"batch_size": "32"}
    writer.deliver({"op": "log_params", "key": "any name", "params": params, "time": 2})
    found = writer._client.get_run(run_id).data.params
    assert sorted(found.values()) == ["32", "u", "x", "y", "z"]
    assert found["models.Учитель.checkpoint"] == "z"


def test_a_figure_that_mlflow_refuses_keeps_none_of_its_neighbours_away(
    writer: MlflowWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = writer.deliver(start("refused"))
    send, requests = writer._client.log_batch, []

    def log_batch(run_id: str, metrics: Sequence[Any]) -> None:
        requests.append(len(metrics))
        if any(metric.key == "bad" for metric in metrics):
            raise mlflow.MlflowException("bad is bad", mlflow.protos.databricks_pb2.INVALID_PARAMETER_VALUE)
        send(run_id, metrics=metrics)

    monkeypatch.setattr(writer._client, "log_batch", log_batch)
    metrics = {f"m{number}": 1.0 for number in range(9)} | {"bad": 2.0, "last": 3.0}
    with pytest.raises(ValueError, match="MLflow refused 'bad': bad is bad") as refusal:
        writer.deliver({"op": "log_metrics", "key": "refused", "metrics": metrics, "step": 1, "time": 2})
    assert writer.is_permanent(refusal.value)
    assert {*writer._client.get_run(run_id).data.metrics} == {*metrics} - {"bad"}
    assert len(requests) <= 9


def test_a_run_that_was_deleted_is_not_asked_about_every_figure(
    writer: MlflowWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer._client.delete_run(writer.deliver(start("deleted")))
    send, requests = writer._client.log_batch, []
    monkeypatch.setattr(writer._client, "log_batch", lambda *_, **kinds: (requests.append(1), send(*_, **kinds)))
    metrics = {f"m{number}": 1.0 for number in range(9)}
    with pytest.raises(mlflow.MlflowException, match="must be in the 'active' state"):
        writer.deliver({"op": "log_metrics", "key": "deleted", "metrics": metrics, "step": 1, "time": 2})
    assert len(requests) == 1


def moved(storage: Path, to: Path) -> Store:
    """A storage with a run and its artifact, then its store at another place."""
    storage.mkdir()
    writer = MlflowWriter(store_of(TrackingConfig(), storage, "job"), storage / "runs.json")
    writer.deliver(start("before"))
    (storage / "before.txt").write_text("before")
    artifact = {"op": "log_artifact", "key": "before", "path": str(storage / "before.txt"), "folder": None}
    writer.deliver(artifact)
    storage.rename(to)
    return store_of(TrackingConfig(), to, "job")


def test_a_moved_storage_writes_artifacts_to_its_new_place_and_finds_the_old_ones(tmp_path: Path) -> None:
    store = moved(Path(tempfile.mkdtemp(dir=tmp_path)) / "old [x] 1", tmp_path / "new place")
    writer = MlflowWriter(store, tmp_path / "new place" / "runs.json")
    run_id = writer.deliver(start("after"))
    writer.deliver({"op": "log_text", "key": "after", "text": "after", "file": "after.txt"})
    assert (tmp_path / "new place" / "artifacts" / run_id / "artifacts" / "after.txt").read_text() == "after"
    before = writer._client.get_run(writer._runs["before"]).info
    assert before.artifact_uri.startswith((tmp_path / "new place").as_uri())
    assert [file.path for file in writer._client.list_artifacts(before.run_id)] == ["before.txt"]
    assert [path.name for path in tmp_path.iterdir() if any(path.rglob("after.txt"))] == ["new place"]


def test_an_experiment_of_another_storage_that_is_gone_is_refused_with_the_remedy(tmp_path: Path) -> None:
    store = moved(tmp_path / "old", tmp_path / "new")
    elsewhere = Store(store.uri, (tmp_path / "third" / "artifacts").as_uri(), "job")
    with pytest.raises(ValueError, match=r"'job' keeps its artifacts in file:.*/old/artifacts, which is gone; move it"):
        MlflowWriter(elsewhere, tmp_path / "runs.json")
    (tmp_path / "old" / "artifacts").mkdir(parents=True)
    MlflowWriter(elsewhere, tmp_path / "runs.json")
