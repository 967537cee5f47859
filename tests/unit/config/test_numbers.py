"""Numbers that no part of a job can have are refused where the file is read, with their key."""

import dataclasses
from typing import Any, get_type_hints

import pytest
from pydantic import ValidationError

from raydistill import discovery
from raydistill.config.errors import error_lines
from raydistill.config.named import EncodingSpec, MethodSpec, Named, SourceSpec, TaskSpec
from raydistill.config.sections import CorpusRef, ScalingConfig, Section, StudentConfig
from raydistill.config.training import OptimizerConfig, TrainingConfig
from raydistill.job.load import STAGES, JobConfig, load_job, stage_type
from raydistill.search.config import SearchConfig
from raydistill.user_error import UserError

INF, NAN = float("inf"), float("nan")


def refusal(section: type[Section], **values: Any) -> str:
    with pytest.raises(ValidationError) as error:
        section.model_validate(values)
    return "\n".join(error_lines(error.value))


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (
            OptimizerConfig,
            {"betas": [-1, 5]},
            "betas.0 is -1; it should be greater than or equal to 0\nbetas.1 is 5; it",
        ),
        (OptimizerConfig, {"learning_rate": INF}, "learning_rate is inf; it should be a finite number"),
        (OptimizerConfig, {"epsilon": NAN}, "epsilon is nan; it should be a finite number"),
        (
            OptimizerConfig,
            {"weight_decay": 1e30},
            "weight_decay is 1e+30, which with learning_rate 5e-05 removes all of",
        ),
        (
            OptimizerConfig,
            {"learning_rate": 20, "weight_decay": 0.1},
            "weight_decay is 0.1, which with learning_rate 20",
        ),
        (ScalingConfig, {"data_cpus": 1e30}, "data_cpus is 1e+30; it should be a whole number below 2**63"),
        (ScalingConfig, {"data_cpus": 1e12}, "data_cpus is 1000000000000.0; it should be less than or equal to 100000"),
        (ScalingConfig, {"num_workers": True}, "num_workers is True; it should be a number, not true or false"),
        (TrainingConfig, {"max_steps": True}, "max_steps is True; it should be a number, not true or false"),
        (TrainingConfig, {"dropout": False}, "dropout is False; it should be a number, not true or false"),
        (TrainingConfig, {"eval_steps": INF}, "eval_steps is inf; a number of steps is whole and positive"),
        (CorpusRef, {"corpus": "c", "weight": 1e30}, "weight is 1e+30; it should be less than or equal to 10000"),
        (CorpusRef, {"corpus": "c", "few_shot": True}, "few_shot is True; it should be a number"),
    ],
)
def test_a_number_that_nothing_can_have_is_refused_with_its_key(
    section: type[Section], values: dict[str, Any], message: str
) -> None:
    assert refusal(section, **values).startswith(message)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"name": "kd", "temperature": 1e-30}, "temperature is 1e-30; a temperature is from 0.001 to 10000"),
        ({"name": "vkd", "temperature": 1e30}, "temperature is 1e+30; a temperature is from 0.001 to 10000"),
        ({"name": "muki", "teacher_score_temperature": 1e-9}, "teacher_score_temperature is 1e-09; a temperature is"),
        ({"name": "kd", "temperature": True}, "temperature is True; it should be a number, not true or false"),
        ({"name": "kd", "alpha": NAN}, "alpha is nan; it should be a finite number"),
        ({"name": "causal", "alpha_mse": 1e30}, "alpha_mse is 1e+30; a weight is at most 1e+06"),
        ({"name": "causal", "max_tokens": True}, "max_tokens is True; it should be a number"),
    ],
)
def test_options_of_a_method_keep_the_same_rule(method: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as error:
        MethodSpec.parse(method)
    assert message in "\n".join(error_lines(error.value))


def job(**changes: Any) -> dict[str, Any]:
    train = {"kind": "train", "corpus": "c", "method": "finetune", "student": {"init": "checkpoint", "checkpoint": "m"}}
    return {"name": "toy", "stages": {"adapt": train}, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 10**22}, "seed is 10000000000000000000000; it should be a whole number below 2**63"),
        ({"seed": True}, "seed is True; it should be a number, not true or false"),
        ({"name": "n" * 400}, f"name is '{'n' * 56}...; String should have at most 200 characters"),
    ],
)
def test_a_job_with_such_a_seed_or_name_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        load_job(job(**changes))
    [line] = error_lines(error.value)
    assert line.startswith(message)


def test_the_name_of_a_stage_that_no_folder_can_have_is_refused() -> None:
    stages = {"s" * 400: job()["stages"]["adapt"]}
    with pytest.raises(ValueError, match=r"^stages\.s{20}\.\.\. has a name of 400 letters; shorten it to 200"):
        load_job(job(stages=stages))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"layers": [0, 99]},
            r"layers is \[0, 99\], which init: checkpoint does not read; leave it out, or write init: l",
        ),
        ({"num_layers": 3}, "num_layers is 3, which init: checkpoint does not read"),
        ({"architecture": "bert"}, "architecture is bert, which init: checkpoint does not read"),
        ({"vocab_transform": True}, "vocab_transform is True, which init: checkpoint does not read"),
        ({"freeze_position_embeddings": True}, "freeze_position_embeddings is True, which init: checkpoint does not"),
        ({"init": "random", "num_layers": 3, "vocab_transform": True}, "which init: random does not read"),
        ({"config": {"hidden_size": 8}}, r"config is {'hidden_size': 8}, which init: checkpoint does not read"),
        ({"init": "layers", "num_layers": 3, "config": {"hidden_size": 8}}, "or write init: sliced"),
        (
            {"init": "random", "config": {"hidden_size": 8}, "units": "important", "scores": "s"},
            "or write init: sliced",
        ),
    ],
)
def test_a_key_that_a_students_start_does_not_read_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StudentConfig.model_validate({"init": "checkpoint", "checkpoint": "m", **values})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "init is 'sliced'; give the student's shape as config"),
        ({"config": {"hidden_size": 8}, "units": "important"}, "units is 'important', scores is None"),
        ({"config": {"hidden_size": 8}, "scores": "s"}, "units is 'leading', scores is 's'"),
    ],
)
def test_a_sliced_student_needs_a_shape_and_important_units_need_scores(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StudentConfig.model_validate({"init": "sliced", **values})


def test_the_family_of_a_student_of_a_shape_is_named_in_one_place() -> None:
    with pytest.raises(ValueError, match=r"architecture is bert beside config; write config.model_type instead"):
        StudentConfig.model_validate({"init": "random", "architecture": "bert", "config": {"hidden_size": 8}})


def numbers_of(kind: type) -> list[str]:
    """Fields that take a number and no truth value."""
    hints = get_type_hints(kind)
    plain = {"int", "float", "int | None", "float | None"}
    return [name for name, hint in hints.items() if str(getattr(hint, "__name__", hint)) in plain or str(hint) in plain]


SPECS: list[type[Named]] = [MethodSpec, TaskSpec, EncodingSpec, SourceSpec]
OPTIONS = [
    (spec, name, field)
    for spec in SPECS
    for name in discovery.names(spec.PACKAGE)
    for field in numbers_of(spec.config_type(name))
    if field in {one.name for one in dataclasses.fields(spec.config_type(name))}
]


def test_no_number_of_a_method_task_or_source_takes_a_truth_value() -> None:
    assert len(OPTIONS) > 50
    for spec, name, field in OPTIONS:
        with pytest.raises(ValidationError) as error:
            spec.parse({"name": name, field: True})
        assert f"{field} is True; it should be a number, not true or false" in error_lines(error.value), (name, field)


SECTIONS = [
    *(one for one in Section.__subclasses__() if one.__module__.startswith("raydistill.config")),
    JobConfig,
    SearchConfig,
    *(stage_type(name).config_type for name in discovery.names(STAGES)),
]


def test_no_number_of_a_section_takes_a_truth_value() -> None:
    found = [(section, field) for section in SECTIONS for field in numbers_of(section) if field != "model_config"]
    assert len(found) > 40
    for section, field in found:
        assert f"{field} is True; it should be a number, not true or false" in refusal(section, **{field: True})
