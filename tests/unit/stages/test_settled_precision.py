"""A training whose job names no precision decides it once, says so and keeps it with its output."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from raydistill.config.sections import ScalingConfig
from raydistill.stages import _precision
from raydistill.stages._precision import settled
from raydistill.training.precision import FILE, Choice, Shape
from toys.capture import context_of, train_stage
from toys.models import toy_bert

JOBS = Path(__file__).parents[3] / "jobs"
STUDENT = toy_bert(2).config


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Shape]:
    """Shapes that were measured; each says another precision."""
    found: list[Shape] = []

    def choose(shape: Shape, *, num_threads: int) -> Choice:
        found.append(shape)
        return Choice("bf16" if len(found) == 1 else "fp32", "it was measured")

    monkeypatch.setattr(_precision, "choose", choose)
    return found


def test_it_is_decided_at_the_students_shapes_once_for_a_training(tmp_path: Path, asked: list[Shape]) -> None:
    stage = train_stage(tmp_path, training={"precision": "auto"})
    context = context_of(stage, tmp_path / "run")
    for _ in range(2):
        config, told = settled(stage.config, STUDENT, context, row_tokens=40)
        assert (config.training.precision, told) == ("bf16", "bf16, because it was measured")
    assert asked == [Shape(rows=4, tokens=40, hidden=16, intermediate=24, heads=2, blocks=2)]
    assert json.loads((context.output / FILE).read_text()) == {"precision": "bf16", "why": "it was measured"}
    assert stage.config.training.precision == "auto"


@pytest.mark.parametrize(("precision", "use_gpu"), [("fp32", False), ("bf16", False), ("auto", True)])
def test_a_precision_that_is_named_and_gpus_are_not_measured(
    tmp_path: Path, asked: list[Shape], precision: str, use_gpu: bool
) -> None:
    stage = train_stage(tmp_path, training={"precision": precision})
    context = replace(context_of(stage, tmp_path / "run"), scaling=ScalingConfig(use_gpu=use_gpu))
    assert settled(stage.config, STUDENT, context, row_tokens=40) == (stage.config, "")
    assert asked == []


@pytest.mark.parametrize("file", sorted(JOBS.rglob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_jobs_on_cpus_name_their_precision(file: Path) -> None:
    job: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    if job.get("scaling", {}).get("use_gpu"):
        return
    trainings = [stage.get("training", {}) for stage in job["stages"].values() if stage["kind"] == "train"]
    assert all(training.get("precision") for training in trainings)
