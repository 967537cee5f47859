"""Sparse teachers from scores to the chosen level and the registry; the job skips and resumes what it should."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from raydistill.job import files
from raydistill.job.load import load_job
from raydistill.job.run import JobResult, run_job
from raydistill.models.kept_units import kept_of
from raydistill.models.load import load_config
from raydistill.report.tables import Entry, group
from raydistill.stages._models import content_of

LEVELS = ("sparse[sparsity=0]", "sparse[sparsity=50]")
STUDENTS = ("rewound[sparsity=0]", "rewound[sparsity=50]")

# The first test waits for the whole job, which a busy machine draws out.
pytestmark = pytest.mark.timeout(1500)


def run(storage: Path) -> JobResult:
    raw = {**files.read_job("smoke/stark"), "storage": str(storage)}
    # What students were before they were trained stays then too.
    for name in ("trial", "rewound"):
        raw["stages"][name]["training"]["keep_checkpoints"] = True
    return run_job(load_job(raw), echo=lambda line: None)


@pytest.fixture(scope="module")
def finished(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, JobResult]:
    storage = tmp_path_factory.mktemp("runs")
    return storage, run(storage)


def test_a_sparse_teacher_is_smaller_and_at_0_the_teacher_itself(finished: tuple[Path, JobResult]) -> None:
    _, result = finished
    full, half = (result.summaries[name] for name in LEVELS)
    assert (full["heads"], full["neurons"]) == (4, 1024)
    assert (half["heads"], half["neurons"]) == (2, 512)
    assert half["parameters"] < full["parameters"]
    assert half["size_mb"] < full["size_mb"]
    of_teacher = content_of(result.outputs["teacher"] / "student")
    assert content_of(result.outputs[LEVELS[0]] / "student") == of_teacher


def test_the_table_has_all_models_and_the_pruned_ones_are_as_small_as_they_are(
    finished: tuple[Path, JobResult],
) -> None:
    _, result = finished
    rows = {row.name: row for row in group([Entry.of(one) for one in result.summaries["evaluate"]["entries"]])}
    assert list(rows) == [
        "teacher",
        "trial student",
        "sparse teacher (sparsity=0)",
        "sparse teacher (sparsity=50)",
        "rewound (sparsity=0)",
        "rewound (sparsity=50)",
        "pruned student",
    ]
    parameters = {name: row.figures["parameters"].mean for name, row in rows.items()}
    assert parameters["sparse teacher (sparsity=50)"] == result.summaries[LEVELS[1]]["parameters"]
    assert parameters["pruned student"] == parameters["sparse teacher (sparsity=50)"]
    assert parameters["rewound (sparsity=50)"] == parameters["trial student"] < parameters["teacher"]


def test_every_level_starts_from_the_trial_students_own_weights_and_at_0_ends_where_it_did(
    finished: tuple[Path, JobResult],
) -> None:
    _, result = finished
    start = content_of(result.outputs["trial"] / "initial")
    assert [content_of(result.outputs[name] / "initial") for name in STUDENTS] == [start, start]
    figures = {
        name: result.summaries[name]["metrics"]["eval/loss"] for name in ("trial", "rewound[sparsity=0]", STUDENTS[1])
    }
    assert figures["rewound[sparsity=0]"] == pytest.approx(figures["trial"], abs=1e-4)
    assert figures[STUDENTS[1]] != pytest.approx(figures["trial"], abs=1e-4)


def test_the_best_level_is_chosen_and_its_student_kept_under_one_name(finished: tuple[Path, JobResult]) -> None:
    _, result = finished
    entries = [one for one in result.summaries["evaluate"]["entries"] if one["model"] == "rewound"]
    best = max(entries, key=lambda one: one["figures"]["accuracy"])
    chosen = result.summaries["best"]
    assert chosen["assignment"] == best["assignment"]
    assert chosen["value"] == best["figures"]["accuracy"]
    assert content_of(result.outputs["best"] / "student") == content_of(result.outputs[chosen["chosen"]] / "student")


def test_the_curve_against_sparsity_is_in_the_tracking_store_as_table_and_picture(
    finished: tuple[Path, JobResult],
) -> None:
    storage, _ = finished
    client = mlflow.MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("smoke-stark")
    assert experiment is not None
    runs = {one.info.run_name: one.info.run_id for one in client.search_runs([experiment.experiment_id])}
    artifacts = {one.path for one in client.list_artifacts(runs["report"])}
    stem = "evaluate-accuracy-against-sparsity"
    assert {f"{stem}.md", "report.html"} <= artifacts
    text = Path(client.download_artifacts(runs["report"], f"{stem}.md")).read_text()
    assert [line.split("|")[1].strip() for line in text.splitlines()] == ["sparsity", "---", "0", "50"]


def test_a_pruned_student_stays_pruned_and_is_registered_as_a_plain_model_in_its_original_shape(
    finished: tuple[Path, JobResult],
) -> None:
    storage, result = finished
    config = load_config(result.outputs["pruned_student"] / "student")
    kept = kept_of(config)
    assert kept is not None
    assert (kept.num_heads, kept.num_neurons) == (2, 512)
    code = f"""
import sys
sys.modules["raydistill"] = None
import mlflow
mlflow.set_tracking_uri("sqlite:///{storage / "mlflow.db"}")
model = mlflow.transformers.load_model("{result.summaries["register"]["uri"]}", return_type="components")["model"]
layers = model.bert.encoder.layer
print(sum(layer.intermediate.dense.weight.any(-1).sum().item() for layer in layers), len(layers))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["512 2"], done.stderr[-2000:]


def test_a_second_run_skips_all_and_one_without_some_outputs_makes_those_alone(
    finished: tuple[Path, JobResult],
) -> None:
    storage, first = finished
    again = run(storage)
    assert sorted(again.skipped) == sorted(first.outputs)
    scores = (first.outputs["scores"] / "scores.safetensors").read_bytes()
    for name in ("scores", LEVELS[1]):
        shutil.rmtree(first.outputs[name])
    resumed = run(storage)
    assert {*resumed.outputs} - {*resumed.skipped} == {"scores", LEVELS[1]}
    assert (resumed.outputs["scores"] / "scores.safetensors").read_bytes() == scores
    kept = [json.dumps(one.summaries[LEVELS[1]]["kept"]) for one in (first, resumed)]
    assert kept[0] == kept[1]
