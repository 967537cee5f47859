import pytest

from raydistill.config.named import MethodSpec
from raydistill.config.schema import has_key
from raydistill.config.sections import ModelRef, Section
from raydistill.config.training import TrainingConfig


class Stage(Section):
    method: MethodSpec
    training: TrainingConfig
    models: dict[str, ModelRef]
    teachers: list[ModelRef]
    start: ModelRef | None
    tags: dict[str, str]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("training.batch_size", True),
        ("training.batchsize", False),
        ("training.batch_size.x", False),
        ("method.name", True),
        ("method.temperature", True),
        ("method.temprature", False),
        ("models.any.path", True),
        ("models.any.paht", False),
        ("teachers.0.path", True),
        ("teachers.path", False),
        ("start.revision", True),
        ("tags.any", True),
        ("other", False),
    ],
)
def test_a_key_is_known_when_the_types_have_it(key, expected):
    assert has_key(Stage, key.split("."), {"method": {"name": "causal"}}) is expected


def test_the_options_of_a_method_are_those_of_the_one_the_file_names():
    path = ["method", "temperature"]
    assert has_key(Stage, path, {"method": "causal"})
    assert not has_key(Stage, path, {"method": "finetune"})
    assert not has_key(Stage, path, {"method": "no-such-method"})
    assert not has_key(Stage, path, {})
