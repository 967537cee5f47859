"""Methods of classifiers from a binarized corpus to the registry, with and without stored teacher outputs."""

import json
import subprocess
import sys
from pathlib import Path

import mlflow
import pyarrow.parquet as pq
import pytest

from raydistill.job import files
from raydistill.job.load import load_job
from raydistill.job.run import JobResult, run_job
from raydistill.training.history import read_history

STUDENTS = ("student[method=kd]", "student[method=patient_kd]")
LABELS = ["negative", "neutral", "positive"]


# The first test waits for the whole job, which a busy machine draws out.
pytestmark = pytest.mark.timeout(1500)


@pytest.fixture(scope="module")
def finished(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, JobResult]:
    storage = tmp_path_factory.mktemp("runs")
    raw = {**files.read_job("smoke/classification"), "storage": str(storage)}
    # What students were before they were trained stays then too.
    raw["stages"]["student"]["training"]["keep_checkpoints"] = True
    return storage, run_job(load_job(raw), echo=lambda line: None)


def test_the_teacher_learns_and_its_classes_have_their_names(finished: tuple[Path, JobResult]) -> None:
    _, result = finished
    losses = [one["eval/loss"] for one in read_history(result.outputs["teacher"]) if "eval/loss" in one]
    assert losses[-1] < 0.98 * losses[0]
    config = json.loads((result.outputs["teacher"] / "student" / "config.json").read_text(encoding="utf-8"))
    assert list(config["id2label"].values()) == LABELS


def test_trainings_on_stored_outputs_run_no_teacher_and_others_do(finished: tuple[Path, JobResult]) -> None:
    storage, _ = finished
    client = mlflow.MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("smoke-classification")
    rows = {
        run.info.run_name: run.data.metrics.get("teacher/rows", 0.0)
        for run in client.search_runs([experiment.experiment_id])
    }
    assert [rows[name] for name in STUDENTS] == [0, 0]
    assert rows["outputs"] > 3_000
    assert min(rows[f"dynamic[method={name}]"] for name in ("dynamic_data", "dynamic_objective")) >= 4 * 8


def test_what_pretraining_on_predictions_learnt_carries_over_and_its_head_does_not(
    finished: tuple[Path, JobResult],
) -> None:
    from safetensors.torch import load_file

    _, result = finished
    before = load_file(result.outputs["ptp"] / "student" / "model.safetensors")
    after = load_file(result.outputs[STUDENTS[0]] / "initial" / "model.safetensors")
    assert before["classifier.weight"].shape[0] == 4
    assert after["classifier.weight"].shape[0] == len(LABELS)
    carried = [name for name in before if not name.startswith("classifier.")]
    assert all(before[name].equal(after[name]) for name in carried)
    assert any(name.startswith("bert.pooler.") for name in carried)


def test_every_model_has_predictions_and_a_row_in_the_table(finished: tuple[Path, JobResult]) -> None:
    _, result = finished
    folder = result.outputs["evaluate"]
    predictions = {path.stem: pq.read_table(path) for path in (folder / "predictions").iterdir()}
    assert len(predictions) == 5
    for table in predictions.values():
        assert len(table) == 64
        assert set(table.column("prediction").to_pylist()) <= set(LABELS)
    entries = result.summaries["evaluate"]["entries"]
    teacher = next(entry for entry in entries if entry["model"] == "teacher")
    found = predictions["teacher"]
    right = sum(
        a == b for a, b in zip(*(found.column(name).to_pylist() for name in ("label", "prediction")), strict=True)
    )
    assert teacher["figures"]["accuracy"] == right / 64


def test_the_registered_student_of_shared_blocks_is_a_plain_model_of_twice_the_depth(
    finished: tuple[Path, JobResult],
) -> None:
    storage, result = finished
    code = f"""
import sys
sys.modules["raydistill"] = None
import mlflow
from transformers import pipeline
mlflow.set_tracking_uri("sqlite:///{storage / "mlflow.db"}")
found = mlflow.transformers.load_model("{result.summaries["register"]["uri"]}", return_type="components")
model = found["model"]
print(model.config.num_hidden_layers, sorted(model.config.id2label.values()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == [f"2 {LABELS}"], done.stderr[-2000:]
