"""MiniLM teaches students of other shapes and families, from texts to figures."""

import math
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification

from raydistill.job import files
from raydistill.job.load import load_job
from raydistill.job.run import JobResult, run_job
from raydistill.models.load import load_config

pytestmark = pytest.mark.long
STUDENTS = {"electra": ("electra", 96, 2), "albert": ("albert", 96, 3), "sliced": ("bert", 312, 3)}


@pytest.fixture(scope="module")
def result(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> JobResult:
    storage = tmp_path_factory.mktemp("runs")
    return run_job(load_job({**files.read_job("smoke/shapes"), "storage": str(storage)}), echo=lambda line: None)


def figures(result: JobResult) -> dict[str, dict[str, Any]]:
    return {entry["model"]: entry["figures"] for entry in result.summaries["evaluate"]["entries"]}


@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_has_its_shape_and_plain_transformers_opens_it(name: str, result: JobResult) -> None:
    folder = Path(result.summaries[name]["student"])
    config = load_config(folder)
    assert (config.model_type, config.hidden_size, config.num_hidden_layers) == STUDENTS[name]
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert sorted(model.config.id2label.values()) == ["negative", "positive"]
    assert figures(result)[name]["parameters"] == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", STUDENTS)
def test_a_few_steps_change_what_a_student_says_and_keep_it_finite(name: str, result: JobResult) -> None:
    losses = [figures(result)[model]["loss"] for model in (name, f"{name} before")]
    assert all(map(math.isfinite, losses))
    assert losses[0] != losses[1]
