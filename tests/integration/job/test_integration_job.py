"""Teachers of parts of the classes, students of all of them, and the table that compares them."""

import json
from pathlib import Path

import mlflow
import pyarrow.parquet as pq
import pytest

from raydistill.data.corpus import Corpus
from raydistill.job import files
from raydistill.job.load import load_job
from raydistill.job.run import JobResult, run_job
from raydistill.training.history import read_history

LABELS = ["bad", "neutral", "good", "great"]
OF_TEACHERS = {"lower": ["bad", "neutral"], "upper": ["good", "great"]}
METHODS = {"stored": ("vkd", "uhc", "muki"), "live": ("dfa", "cfl")}
STORED = [f"stored[method={name}]" for name in METHODS["stored"]]
LIVE = [f"live[method={name},seed={seed}]" for name in METHODS["live"] for seed in (1, 2)]


# The first test waits for the whole job, which a busy machine draws out.
pytestmark = pytest.mark.timeout(1500)


@pytest.fixture(scope="module")
def finished(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, JobResult]:
    storage = tmp_path_factory.mktemp("runs")
    job = load_job({**files.read_job("smoke/integration"), "storage": str(storage)})
    return storage, run_job(job, echo=lambda line: None)


def classes_of(result: JobResult, run: str) -> list[str]:
    config = json.loads((result.outputs[run] / "student" / "config.json").read_text(encoding="utf-8"))
    return [config["id2label"][str(number)] for number in range(len(config["id2label"]))]


def test_teachers_know_their_part_in_the_order_of_the_corpus_and_students_all(
    finished: tuple[Path, JobResult],
) -> None:
    _, result = finished
    for name, labels in OF_TEACHERS.items():
        assert classes_of(result, name) == labels
    for name in [*STORED, *LIVE, "supervised", "unlabelled"]:
        assert classes_of(result, name) == LABELS


def test_methods_of_logits_read_what_is_stored_and_those_of_states_run_both_teachers(
    finished: tuple[Path, JobResult],
) -> None:
    storage, _ = finished
    client = mlflow.MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("smoke-integration")
    rows = {
        run.info.run_name: run.data.metrics.get("teacher/rows", 0.0)
        for run in client.search_runs([experiment.experiment_id])
    }
    assert [rows[name] for name in STORED] == [0, 0, 0]
    assert min(rows[name] for name in LIVE) >= 2 * 4 * 8


def test_a_student_learns_from_text_without_labels_and_is_chosen_by_its_agreement_with_the_teachers(
    finished: tuple[Path, JobResult],
) -> None:
    _, result = finished
    for part in ("train", "validation"):
        corpora = {name: Corpus.open(str(result.outputs[name] / part)) for name in ("corpus", "text")}
        assert [list(corpora[name].columns) for name in corpora] == [["label", "second"], ["second"]]
        assert len(corpora["text"]) == len(corpora["corpus"])
        rows = [one.read_rows(range(5)) for one in corpora.values()]
        assert all((first == second).all() for first, second in zip(*rows, strict=True))
    history = read_history(result.outputs["unlabelled"])
    agreed = {line["step"]: line["validation/agreement"] for line in history if "validation/agreement" in line}
    assert list(agreed) == [0, 2, 4]
    assert not any(name.startswith("eval/") for line in history for name in line)
    summary = result.summaries["unlabelled"]
    assert (summary["best_metric"], summary["delivered"]) == ("validation/agreement", "best")
    assert summary["best_value"] == max(agreed[2], agreed[4])
    [entry] = [one for one in result.summaries["evaluate"]["entries"] if one["model"] == "unlabelled"]
    assert 0 <= entry["figures"]["accuracy"] <= 1


def test_a_teacher_alone_is_wrong_about_rows_of_classes_that_it_does_not_know(
    finished: tuple[Path, JobResult],
) -> None:
    _, result = finished
    entries = {entry["model"]: entry["figures"] for entry in result.summaries["evaluate"]["entries"]}
    for name, labels in OF_TEACHERS.items():
        table = pq.read_table(result.outputs["evaluate"] / "predictions" / f"{name}.parquet").to_pandas()
        assert set(table["prediction"]) <= set(labels)
        assert entries[name]["accuracy"] == (table["prediction"] == table["label"]).mean()
        assert entries[name]["accuracy"] <= table["label"].isin(labels).mean()
        assert "loss" not in entries[name]


def test_the_table_has_teachers_ensembles_the_bound_and_all_methods_over_their_seeds(
    finished: tuple[Path, JobResult],
) -> None:
    _, result = finished
    report = result.outputs["report"]
    lines = (report / "task_table.md").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "| model | n | accuracy | macro F1 |"
    cells = {line.split(" | ")[0].removeprefix("| "): line for line in lines[2:]}
    methods = [f"{stage} (method={name})" for stage, names in METHODS.items() for name in names]
    assert list(cells) == ["lower", "upper", "supervised", "unlabelled", *methods, "concatenated", "weighted", "surest"]
    assert [line.split(" | ")[1] for line in cells.values()] == ["2" if "live" in name else "1" for name in cells]
    page = (report / "report.html").read_text(encoding="utf-8")
    assert "lower knows 2 classes and predicts no other; all rows count." in page
    assert "concatenated: one softmax over the logits of all members." in page


def test_the_registered_student_is_the_one_of_muki_with_its_figures(finished: tuple[Path, JobResult]) -> None:
    storage, result = finished
    client = mlflow.MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    version = client.get_model_version_by_alias("smoke-integration", "candidate")
    assert version.tags["run"] == "stored[method=muki]"
    assert version.tags["method"] == "muki"
    assert version.tags["teacher"] == "lower, upper"
    assert str(result.summaries["register"]["version"]) == str(version.version)
