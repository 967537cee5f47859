"""Trainings that store their teacher's outputs by themselves against one that runs it, and others that find them."""

from pathlib import Path
from typing import Any

import pytest

from raydistill.data.stored_outputs import TEACHER_ROWS
from raydistill.job.load import load_job
from raydistill.job.run import JobResult, run_job
from raydistill.training.history import read_history
from toys.capture import context_of, metrics_of, train_stage, write_labelled

STORED_ROWS = 110


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Path:
    found = tmp_path_factory.mktemp("own")
    write_labelled(found)
    return found


def trained(folder: Path, output: str, *, seed: int = 5, **changes: Any) -> dict[str, Any]:
    # At the default temperature of 10 the term, multiplied by its square, is itself rounded to some 1e-6.
    stage = train_stage(folder, method={"name": "kd", "temperature": 1.0}, **changes)
    context = context_of(stage, folder / "runs" / output, storage=folder / "runs", seed=seed)
    stage.run(context)
    return {"history": read_history(context.output), "metrics": metrics_of(context)}


@pytest.fixture(scope="module")
def trainings(folder: Path) -> dict[str, Any]:
    return {
        "live": trained(folder, "job/live", teacher_outputs="live"),
        "first": trained(folder, "job/first"),
        "second": trained(folder, "other/second", seed=6),
    }


def values(training: dict[str, Any], metric: str) -> list[float]:
    return [line[metric] for line in training["history"] if metric in line]


def test_a_training_on_outputs_of_its_own_equals_one_that_runs_the_teacher(trainings: dict[str, Any]) -> None:
    for metric, count in {"train/loss": 8, "validation/kd": 3}.items():
        live, first = (values(trainings[name], metric) for name in ("live", "first"))
        assert len(live) == count
        assert first == pytest.approx(live, abs=1e-6, rel=1e-6)
    assert values(trainings["second"], "train/loss") != values(trainings["first"], "train/loss")


def test_the_first_training_counts_what_it_stored_and_the_next_job_runs_no_teacher(trainings: dict[str, Any]) -> None:
    counts = {name: set(values(training, TEACHER_ROWS)) for name, training in trainings.items()}
    assert counts["first"] == {STORED_ROWS}
    assert counts["second"] == {0}
    assert max(counts["live"]) == 2 * 90 + 3 * 20


@pytest.fixture(scope="module")
def job(folder: Path) -> JobResult:
    """Two seeds and two methods side by side, each with the same teacher."""
    stage = train_stage(folder, training={"max_steps": 4}).config.model_dump(mode="json", exclude={"matrix", "seed"})
    method = [{"name": "kd"}, {"name": "dynamic_data", "selection": "none"}]
    stages = {"student": {**stage, "matrix": {"method": method, "seed": [1, 2]}}}
    return run_job(
        load_job({"name": "side", "storage": str(folder / "side"), "stages": stages}), echo=lambda line: None
    )


def test_of_runs_of_a_matrix_one_stores_what_all_read(job: JobResult) -> None:
    counts = [values({"history": read_history(output)}, TEACHER_ROWS)[-1] for output in job.outputs.values()]
    assert sorted(counts) == [0, 0, 0, STORED_ROWS]
