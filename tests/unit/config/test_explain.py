from pathlib import Path

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from raydistill.cli import app
from raydistill.commands.explain import _stages
from raydistill.config import json_schema
from raydistill.config.explain import explained
from raydistill.job.load import JobConfig
from raydistill.search.config import SearchConfig

ROOT = Path(__file__).parents[3]
TRAIN = _stages()["train"]


def explain(*arguments):
    result = CliRunner().invoke(app, ["explain", *arguments])
    return result.exit_code, result.stdout or result.stderr


def test_an_option_of_a_method_has_type_default_what_it_may_be_and_meaning():
    found = explained(TRAIN, ["method", "kd", "temperature"])
    assert found.lines == [
        "temperature: float = 2.0",
        "  it must be positive and finite",
        "  Logits are divided by it before the softmax.",
    ]


def test_an_option_of_words_tells_the_words():
    found = explained(TRAIN, ["method", "kd", "reduction"])
    assert found.limits == ("one of: batchmean, mean",)


def test_a_number_of_a_section_has_its_bounds():
    assert explained(JobConfig, ["scaling", "num_workers"]).lines[:2] == ["num_workers: int = 1", "  at least 1"]


def test_a_section_lists_its_keys_and_a_named_one_its_names():
    assert {"batch_size", "max_steps"} <= {key.name for key in explained(TRAIN, ["training"]).keys}
    assert "kd" in explained(TRAIN, ["method"]).limits[0].removeprefix("name: ").split(", ")


def test_what_a_job_writes_picks_the_method_and_is_told():
    code, text = explain("distill.method.temperature", "demo")
    assert code == 0
    job = yaml.safe_load((ROOT / "jobs" / "demo.yaml").read_text())
    assert text.startswith("temperature: float = ")
    written = job["stages"]["distill"]["method"].get("temperature")
    assert written is None or f"demo has {written}" in text


def test_a_key_inside_stages_is_told_for_all_that_have_it():
    code, text = explain("method.kd.temperature")
    assert code == 0
    assert text.splitlines()[:2] == ["in stages train:", "temperature: float = 2.0"]


@pytest.mark.parametrize("key", ["nope", "train.training.nope", "method.kd.nope"])
def test_a_key_that_there_is_not_is_one_line(key):
    code, text = explain(key)
    assert (code, len(text.splitlines())) == (2, 1)
    assert text.startswith(f"{key} is not a key")


@pytest.fixture(scope="module")
def job_schema():
    schema = json_schema.of_job(JobConfig, _stages())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", sorted(ROOT.glob("jobs/**/*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_job_is_valid_by_the_schema(job_schema, path):
    assert [error.message for error in job_schema.iter_errors(yaml.safe_load(path.read_text()))] == []


@pytest.mark.parametrize("path", sorted(ROOT.glob("tune_spaces/**/*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_space_is_valid_by_the_schema(path):
    schema = json_schema.of_space(SearchConfig)
    assert list(jsonschema.Draft202012Validator(schema).iter_errors(yaml.safe_load(path.read_text()))) == []


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("stages", "distill", "method", "name"), "kdd"),
        (("stages", "distill", "method", "temprature"), 2),
        (("stages", "distill", "kind"), "trian"),
        (("stages", "distill", "trainin"), {}),
        (("sed",), 1),
        (("seed",), "one"),
    ],
)
def test_a_mistake_in_a_job_is_found_by_the_schema(job_schema, keys, value):
    raw = yaml.safe_load((ROOT / "jobs" / "demo.yaml").read_text())
    assert job_schema.is_valid(raw)
    place = raw
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    assert not job_schema.is_valid(raw)
