"""What MLflow is given of a run's parameters."""

from pathlib import Path

import mlflow

from raydistill.tracking.store import Store
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
