import pytest
from pydantic import ValidationError

from raydistill.config.errors import error_lines
from raydistill.config.named import MethodSpec
from raydistill.config.sections import ModelRef, Section, StudentConfig
from raydistill.config.training import TrainingConfig
from raydistill.user_error import UserError


class Inner(Section):
    method: MethodSpec
    training: TrainingConfig = TrainingConfig()
    model: ModelRef | None = None
    student: StudentConfig | None = None


class Outer(Section):
    stages: dict[str, Inner]


def lines(**section):
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"stages": {"distill": {"method": "finetune", **section}}})
    return error_lines(caught.value)


def test_an_unknown_option_of_a_method_names_the_full_key_the_closest_one_and_the_choices():
    (line,) = lines(method={"name": "causal", "temprature": 2})
    assert line.startswith(
        "stages.distill.method.temprature is not an option of method causal; did you mean 'temperature'? Choices: "
    )
    assert "interchange_proportion" in line


def test_an_unknown_method_names_the_closest_one():
    for method in ("causl", {"name": "causl"}):
        (line,) = lines(method=method)
        assert line.startswith("stages.distill.method.name is 'causl'; did you mean 'causal'? Choices: causal, ")
        assert "finetune" in line


def test_a_method_that_is_no_section_is_refused_with_the_way_to_write_it():
    (line,) = lines(method=3)
    assert line == (
        "stages.distill.method is 3; write the name of a method, or its name and options as {name: ..., key: value}"
    )


def test_an_unknown_key_of_a_section_tells_only_that_sections_keys():
    (line,) = lines(training={"batchsize": 2})
    assert line.startswith("stages.distill.training.batchsize is not an option; did you mean 'batch_size'? Choices: ")
    assert "temperature" not in line


def test_a_value_of_the_wrong_type_is_named_with_what_it_should_be():
    (line,) = lines(training={"batch_size": "many"})
    assert line.startswith("stages.distill.training.batch_size is 'many'; it should be a valid integer")


def test_a_value_outside_its_range_is_named_with_the_range():
    assert lines(training={"batch_size": 0}) == [
        "stages.distill.training.batch_size is 0; it should be greater than or equal to 1"
    ]


def test_a_wrong_choice_offers_the_closest_one():
    assert lines(training={"precision": "bf61"}) == [
        "stages.distill.training.precision is 'bf61'; did you mean 'bf16'? Choices: auto, fp32, bf16, fp16"
    ]


def test_a_missing_key_is_named():
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"stages": {"distill": {}}})
    assert error_lines(caught.value) == ["stages.distill.method is missing; add it"]


def test_a_sections_own_check_is_led_by_its_key():
    assert lines(model={}) == ["stages.distill.model: give exactly one of checkpoint and package"]
    assert lines(model={"package": "a==1"}) == ["stages.distill.model.package 'a==1' needs sha256 and path beside it"]


def test_every_mistake_gets_a_line_of_its_own():
    found = lines(method={"name": "causal", "x": 1}, training={"y": 1, "batch_size": 0}, student={"num_layers": 0})
    keys = sorted(line.split(" ")[0] for line in found)
    assert keys == [
        "stages.distill.method.x",
        "stages.distill.student.num_layers",
        "stages.distill.training.batch_size",
        "stages.distill.training.y",
    ]
    assert all("\n" not in line for line in found)


def test_a_long_value_is_cut():
    (line,) = lines(training={"batch_size": "x" * 500})
    assert len(line) < 200


def test_other_errors_become_one_line_after_their_source():
    assert error_lines(ValueError("a is 1;\n use 2"), source="job.yaml") == ["job.yaml: a is 1; use 2"]
    assert error_lines(UserError(["a", "b"]), source="f") == ["f: a", "f: b"]
