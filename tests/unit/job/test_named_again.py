"""A student before training that nobody named goes with the end of its training, and comes again where it is named."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from raydistill import cluster
from raydistill.cli import app
from raydistill.config import yaml_text
from raydistill.job.load import Job, load_job
from raydistill.job.record import job_folder, stage_records
from raydistill.job.run import JobResult, Runner
from raydistill.stages import train
from toys.capture import context_of, save_teacher, train_stage, write_labelled
from toys.tracker import MemoryTracker


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # Without a cluster to ask.
    monkeypatch.setattr(cluster, "capacity", lambda scaling: 1)
    write_labelled(tmp_path)
    return tmp_path


def written(folder: Path, models: dict[str, str]) -> dict[str, Any]:
    stage = train_stage(folder).config.model_dump(mode="json")
    evaluate = {"kind": "evaluate", "corpus": stage["corpus"], "task": stage["task"], "models": models}
    return {"name": "toy", "storage": str(folder / "runs"), "stages": {"distill": stage, "evaluate": evaluate}}


def job_of(folder: Path, models: dict[str, str]) -> Job:
    return load_job(written(folder, models))


def finish_training(job: Job) -> Path:
    """As a training leaves its output when no stage names the student before it."""
    record = stage_records(job)["distill"]
    save_teacher(record.output / "student", seed=1)
    record.write({"student": str(record.output / "student")}, seconds=1.0)
    return record.output


def runner_of(job: Job) -> Runner:
    tracker, result = MemoryTracker(), JobResult(job_folder(job))
    return Runner(job, stage_records(job), tracker, result, lambda line: None)


def test_a_job_that_names_it_after_the_training_finds_the_same_weights_again(folder: Path) -> None:
    first = train_stage(folder)
    made = first._initial(context_of(first, folder / "first", seed=42))
    job = job_of(folder, {"before": "distill@initial", "after": "distill"})
    output = finish_training(job)
    # Whatever was drawn since.
    torch.manual_seed(7)
    runner = runner_of(job)
    runner.run_stage([job.runs["distill"]])
    assert runner.result.skipped == ["distill"]
    before, again = (load_file(one / "model.safetensors") for one in (made, output / "initial"))
    assert before.keys() == again.keys()
    assert all(before[name].equal(again[name]) for name in before)


def test_a_job_that_does_not_name_it_makes_nothing(folder: Path) -> None:
    job = job_of(folder, {"after": "distill"})
    output = finish_training(job)
    runner_of(job).run_stage([job.runs["distill"]])
    assert not (output / "initial").exists()


def test_a_cleaned_job_goes_on_with_the_stage_that_follows(folder: Path) -> None:
    models = {"after": "distill"}
    job, file = job_of(folder, models), folder / "job.yaml"
    file.write_text(yaml_text.dump(written(folder, models)))
    output = finish_training(job)
    (output / "checkpoints").mkdir()
    (output / "checkpoints" / "tensors").write_bytes(bytes(3000))
    cleaned = CliRunner().invoke(app, ["clean", str(file), "--yes", "--json"])
    assert json.loads(cleaned.stdout)["bytes"] == 3000, cleaned.output
    assert sorted(path.name for path in output.iterdir()) == ["stage.json", "student"]
    runner = runner_of(job)
    runner.run_stage([job.runs["distill"]])
    assert runner.result.skipped == ["distill"]
    runner.run_stage([job.runs["evaluate"]])
    [entry] = runner.result.summaries["evaluate"]["entries"]
    assert (entry["model"], entry["figures"]["rows"]) == ("after", 20)


def leftovers(stage: train.Stage, output: Path, named: set[str]) -> list[str]:
    for name in ("checkpoints", "initial", "student", "best-4"):
        (output / name).mkdir(parents=True, exist_ok=True)
    return sorted(path.name for path in stage.leftovers(output, named))


def test_a_finished_training_keeps_one_copy_of_its_student(folder: Path) -> None:
    assert leftovers(train_stage(folder), folder / "out", set()) == ["best-4", "checkpoints", "initial"]
    assert leftovers(train_stage(folder), folder / "out", {"@initial"}) == ["best-4", "checkpoints"]
    assert leftovers(train_stage(folder, training={"keep_checkpoints": True}), folder / "out", set()) == []


def test_the_weights_that_an_adapter_was_trained_on_stay_with_it(folder: Path) -> None:
    student = {"architecture": "bert", "layers": [0, 2], "lora": {"save": "adapter"}}
    assert leftovers(train_stage(folder, student=student), folder / "out", set()) == ["best-4", "checkpoints"]
