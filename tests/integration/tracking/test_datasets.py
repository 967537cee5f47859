"""Data sets as inputs of runs, and the description of a version, in a real store."""

from pathlib import Path

import mlflow
import pytest

from raydistill.config.sections import TrackingConfig
from raydistill.tracking.delivery import Delivery
from raydistill.tracking.pages import opening
from raydistill.tracking.store import spool_folder, store_of


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A storage whose store has a run with a data set that was sent twice, and the run's id."""
    root = tmp_path_factory.mktemp("storage")
    delivery = Delivery(store_of(TrackingConfig(), root, "toy"), spool_folder(root, "toy", "toy"))
    writer = delivery.open()
    start = {"op": "start_run", "key": "k", "name": "distill", "parent": None, "tags": {}, "resume": False}
    run_id = writer.deliver({**start, "token": "t", "time": 1})
    about = {"name": "corpus", "digest": "0123456789abcdef0123", "source": {"uri": "/runs/corpus", "made_from": []}}
    record = {**about, "op": "log_dataset", "key": "k", "profile": {"rows": 7, "tokens": 70}, "context": "train"}
    for _ in range(2):
        # An answer that was lost is asked for again.
        writer.deliver({**record, "time": 2})
    writer.deliver({**record, "context": "validation", "digest": "f" * 64, "time": 3})
    delivery.close()
    return root, run_id


def test_a_run_names_what_it_reads_once_with_its_digest_source_and_size(delivered: tuple[Path, str]) -> None:
    root, run_id = delivered
    inputs = mlflow.MlflowClient(f"sqlite:///{root / 'mlflow.db'}").get_run(run_id).inputs.dataset_inputs
    found = {one.tags[0].value: one.dataset for one in inputs}
    assert (len(inputs), sorted(found)) == (2, ["train", "validation"])
    train = found["train"]
    assert (train.name, train.digest) == ("corpus", "0123456789abcdef")
    assert '"uri": "/runs/corpus"' in train.source
    assert train.profile == '{"rows": 7, "tokens": 70}'


def test_the_page_of_a_fresh_store_lists_the_runs_of_the_experiment(delivered: tuple[Path, str]) -> None:
    root, run_id = delivered
    client = mlflow.MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    number = client.get_run(run_id).info.experiment_id
    assert opening(TrackingConfig(), root, "toy") == [
        f"mlflow ui --backend-store-uri sqlite:///{root / 'mlflow.db'}",
        f"http://127.0.0.1:5000/#/experiments/{number}/runs?workflowType=machine_learning",
    ]


def test_a_server_has_the_page_itself(delivered: tuple[Path, str]) -> None:
    root, _ = delivered
    page = "https://mlflow.example/#/experiments/1/runs?workflowType=machine_learning"
    assert opening(TrackingConfig(uri="https://mlflow.example/"), root, "toy") == [page]
    # Before anything was recorded there is the server's address alone.
    assert opening(TrackingConfig(uri="https://mlflow.example"), root, "new") == ["https://mlflow.example"]
