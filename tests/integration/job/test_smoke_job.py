"""The whole line on real text and a real pretrained model: stages, hashes, skipping, tracking, registry."""

import hashlib
import json
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from transformers import AutoModelForMaskedLM

from raydistill.config import overrides
from raydistill.job import files
from raydistill.job.load import JobConfig, accepts, load_job
from raydistill.job.record import stage_records
from raydistill.job.run import JobResult, run_job
from raydistill.stages import register
from raydistill.training.history import read_history

pytestmark = pytest.mark.core


def load(storage: Path, *, leave_out: tuple[str, ...] = (), **changes: Any) -> Any:
    raw = files.read_job("smoke/causal")
    for stage in leave_out:
        del raw["stages"][stage]
    changed = {"storage": str(storage), **changes}
    return load_job(overrides.apply(raw, changed, top_level=JobConfig.model_fields, accepts=accepts(raw)))


@pytest.fixture(scope="module")
def finished(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, JobResult, list[str]]:
    """The smoke job, run to the end after a first attempt that broke in its last stage."""
    storage = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(register.Stage, "run", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_job(load(storage), echo=lambda line: None)
    lines: list[str] = []
    return storage, run_job(load(storage), echo=lines.append), lines


def _interrupt(stage: Any, context: Any) -> dict[str, Any]:
    raise KeyboardInterrupt


def test_an_interrupted_job_skips_what_had_finished(finished: tuple[Path, JobResult, list[str]]) -> None:
    _, result, lines = finished
    assert result.skipped == ["corpus", "distill", "evaluate"]
    assert any(line.startswith("register: continuing") for line in lines)


def test_a_finished_training_keeps_its_student_what_a_stage_names_and_no_checkpoint(
    finished: tuple[Path, JobResult, list[str]],
) -> None:
    _, result, _ = finished
    folders = {path.name for path in result.outputs["distill"].iterdir() if path.is_dir()}
    assert folders == {"initial", "student"}


def test_a_finished_job_runs_nothing_again(finished: tuple[Path, JobResult, list[str]]) -> None:
    storage, first, _ = finished
    again = run_job(load(storage), echo=lambda line: None)
    assert again.skipped == list(first.outputs)
    assert again.summaries == first.summaries


def test_a_changed_stage_and_what_follows_it_get_new_hashes(finished: tuple[Path, JobResult, list[str]]) -> None:
    storage, _, _ = finished
    before = {name: record.hash for name, record in stage_records(load(storage)).items()}
    changed = load(storage, **{"distill.method.temperature": 3.0})
    after = {name: record.hash for name, record in stage_records(changed).items()}
    assert {name for name in before if before[name] != after[name]} == {"distill", "evaluate", "register"}


def figures_by_model(result: JobResult) -> dict[str, dict[str, float]]:
    return {entry["model"]: entry["figures"] for entry in result.summaries["evaluate"]["entries"]}


def test_distillation_lowers_the_validation_loss(finished: tuple[Path, JobResult, list[str]]) -> None:
    _, result, _ = finished
    models = figures_by_model(result)
    assert models["student"]["loss"] < models["student before"]["loss"]
    assert models["student"]["tokens"] == models["teacher"]["tokens"] > 0


def test_a_sharded_student_learns_as_one_that_is_whole(
    finished: tuple[Path, JobResult, list[str]], tmp_path: Path
) -> None:
    _, whole, _ = finished
    changes = {"distill.training.zero_stage": 3}
    sharded = run_job(load(tmp_path, leave_out=("evaluate", "register"), **changes), echo=lambda line: None)
    for metric, count in {"train/loss": 3, "eval/loss": 3}.items():
        curves = [
            [line[metric] for line in read_history(result.outputs["distill"]) if metric in line]
            for result in (sharded, whole)
        ]
        assert len(curves[0]) == count
        # In half precision, where the processor is fast at it, stages round gradients at different places.
        assert curves[0] == pytest.approx(curves[1], rel=5e-4)
    state = AutoModelForMaskedLM.from_pretrained(sharded.outputs["distill"] / "student").state_dict()
    expected = AutoModelForMaskedLM.from_pretrained(whole.outputs["distill"] / "student").state_dict()
    assert state.keys() == expected.keys()


def test_curves_and_configuration_are_in_mlflow(finished: tuple[Path, JobResult, list[str]]) -> None:
    storage, _, _ = finished
    client = mlflow.MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("smoke-causal")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"smoke-causal", "corpus", "distill", "evaluate", "register"}
    parent = runs["smoke-causal"].info.run_id
    distill = runs["distill"]
    assert distill.data.tags["mlflow.parentRunId"] == parent
    assert distill.data.params["method.temperature"] == "2.0"
    curve = client.get_metric_history(distill.info.run_id, "train/causal_ce")
    assert [point.step for point in curve] == [2, 4, 6]
    [resolved] = client.list_artifacts(parent)
    text = (storage / "smoke-causal" / "resolved.yaml").read_bytes()
    assert resolved.path == f"resolved-{hashlib.sha256(text).hexdigest()[:8]}.yaml"
    assert all(run.info.status == "FINISHED" for run in runs.values())


def test_the_registered_student_gives_the_trained_students_logits(
    finished: tuple[Path, JobResult, list[str]], tmp_path: Path
) -> None:
    storage, result, _ = finished
    mlflow.set_tracking_uri(f"sqlite:///{storage / 'mlflow.db'}")
    registered = mlflow.transformers.load_model("models:/smoke-student@candidate", return_type="components")["model"]
    trained = AutoModelForMaskedLM.from_pretrained(result.outputs["distill"] / "student")
    ids = torch.arange(1000, 1020)[None]
    with torch.no_grad():
        assert torch.equal(registered(ids).logits, trained(ids).logits)
    version = mlflow.MlflowClient().get_model_version_by_alias("smoke-student", "candidate")
    assert version.tags["method"] == "causal"
    assert version.tags["job"] == "smoke-causal"
    assert len(version.tags["teacher_hash"]) == 64
    figures = mlflow.MlflowClient().get_run(version.run_id).data.metrics
    assert figures["loss"] == figures_by_model(result)["student"]["loss"]


def test_a_stage_record_is_written_only_at_the_end(finished: tuple[Path, JobResult, list[str]]) -> None:
    _, result, _ = finished
    for output in result.outputs.values():
        stored = json.loads((output / "stage.json").read_text())
        assert output.name.endswith(stored["hash"][:8])
