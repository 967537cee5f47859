"""A matrix of methods and seeds: its runs side by side, its table, its report and the best student."""

import csv
import json
from pathlib import Path
from typing import Any

import mlflow
import pytest

from raydistill.job import files
from raydistill.job.load import load_job
from raydistill.job.record import stage_records
from raydistill.job.run import JobResult, run_job
from raydistill.training.history import read_history
from toys.html_page import HtmlPage

RUNS = [f"student[method={method},seed={seed}]" for method in ("finetune", "causal") for seed in (1, 2)]


@pytest.fixture(scope="module")
def finished(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, JobResult, list[str]]:
    storage = tmp_path_factory.mktemp("runs")
    lines: list[str] = []
    job = load_job({**files.read_job("smoke/comparison"), "storage": str(storage)})
    return storage, run_job(job, echo=lines.append), lines


def tracked(storage: Path) -> tuple[mlflow.MlflowClient, dict[str, Any]]:
    """MLflow's client and its runs by name."""
    client = mlflow.MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("smoke-comparison")
    return client, {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def test_two_runs_of_a_matrix_train_at_one_time(finished: tuple[Path, JobResult, list[str]]) -> None:
    _, result, lines = finished
    assert set(RUNS) < set(result.outputs)
    started, ended = (
        [line.partition(":")[0] for line in lines if line.startswith("student[") and word in line]
        for word in ("started", "finished")
    )
    first_end = next(place for place, line in enumerate(lines) if line.startswith("student[") and "finished" in line)
    assert sorted(started) == sorted(ended) == sorted(RUNS)
    assert sum(line.startswith("student[") and "started" in line for line in lines[:first_end]) == 2


def test_runs_of_one_seed_start_from_one_student_and_the_method_makes_the_difference(
    finished: tuple[Path, JobResult, list[str]],
) -> None:
    _, result, _ = finished
    before = {name: read_history(result.outputs[name])[0]["eval/loss"] for name in RUNS}
    assert before[RUNS[0]] == before[RUNS[2]] != before[RUNS[1]] == before[RUNS[3]]
    after = {name: read_history(result.outputs[name])[-1]["eval/loss"] for name in RUNS}
    assert len(set(after.values())) == 4


def test_training_stops_where_it_was_told_and_delivers_the_best_student(
    finished: tuple[Path, JobResult, list[str]],
) -> None:
    _, result, _ = finished
    for name in RUNS:
        history = read_history(result.outputs[name])
        losses = {record["step"]: record["eval/loss"] for record in history if "eval/loss" in record and record["step"]}
        summary = result.summaries[name]
        assert max(record["step"] for record in history) == 6
        assert summary["best_step"] == min(losses, key=lambda step: losses[step])
        assert summary["delivered"] == "best"


def test_the_table_has_mean_spread_and_number_of_the_seeds(finished: tuple[Path, JobResult, list[str]]) -> None:
    _, result, _ = finished
    entries = [entry for entry in result.summaries["evaluate"]["entries"] if entry["model"] == "student"]
    causal = [entry["figures"]["loss"] for entry in entries if entry["assignment"]["method"] == "causal"]
    with (result.outputs["report"] / "evaluate.csv").open(encoding="utf-8", newline="") as file:
        rows = {(row["model"], row["method"]): row for row in csv.DictReader(file)}
    assert set(rows) == {("teacher", ""), ("student", "finetune"), ("student", "causal")}
    row = rows["student", "causal"]
    assert int(row["n"]) == 2
    assert float(row["loss_mean"]) == pytest.approx(sum(causal) / 2)
    assert float(row["loss_spread"]) == pytest.approx(abs(causal[0] - causal[1]) / 2**0.5)


def test_the_report_is_in_the_folder_and_in_mlflow(
    finished: tuple[Path, JobResult, list[str]],
) -> None:
    storage, result, _ = finished
    client, runs = tracked(storage)
    kept = {artifact.path for artifact in client.list_artifacts(runs["report"].info.run_id)}
    assert {"report.html", "evaluate.md", "evaluate.csv"} <= kept
    page = HtmlPage((result.outputs["report"] / "report.html").read_text(encoding="utf-8"))
    assert page.titles[-2:] == ["Lineage", "Make it again"]
    assert f"raydistill run {result.folder}/resolved-" in page.text


def test_each_run_tells_its_seed_its_hashes_and_the_command_that_repeats_it(
    finished: tuple[Path, JobResult, list[str]],
) -> None:
    storage, result, _ = finished
    _, runs = tracked(storage)
    tags = runs[RUNS[3]].data.tags
    assert (tags["seed"], tags["matrix.seed"], tags["matrix.method"]) == ("2", "2", "causal")
    assert tags["hash"].startswith(result.outputs[RUNS[3]].name.removeprefix("student-"))
    assert tags["input.poems"].startswith(result.outputs["poems"].name.removeprefix("poems-"))
    assert len(tags["corpus_hash"]) == len(tags["teacher_hash"]) == 64
    command = runs["smoke-comparison"].data.tags["repeat"].split()
    assert command[:2] == ["raydistill", "run"]
    again = load_job(files.read_job(command[2]))
    first = load_job({**files.read_job("smoke/comparison"), "storage": str(storage)})
    assert [one.hash for one in stage_records(again).values()] == [one.hash for one in stage_records(first).values()]


def test_the_best_run_of_the_matrix_is_registered(finished: tuple[Path, JobResult, list[str]]) -> None:
    storage, result, _ = finished
    entries = [entry for entry in result.summaries["evaluate"]["entries"] if entry["model"] == "student"]
    best = min(entries, key=lambda entry: entry["figures"]["loss"])
    mlflow.set_tracking_uri(f"sqlite:///{storage / 'mlflow.db'}")
    version = mlflow.MlflowClient().get_model_version_by_alias("smoke-comparison-student", "candidate")
    chosen = ",".join(f"{key}={value}" for key, value in best["assignment"].items())
    assert version.tags["run"] == f"student[{chosen}]"


def test_json_of_the_result_can_be_written(finished: tuple[Path, JobResult, list[str]]) -> None:
    _, result, _ = finished
    assert json.loads(json.dumps(result.summaries)) == result.summaries
