"""What a user may say that a classifier's outputs are."""

import pytest
from pydantic import ValidationError

from raydistill.config.errors import error_lines
from raydistill.config.sections import ModelRef


@pytest.mark.parametrize("labels", [[], ["a", "b"], {}, {"World": "world", "Other": None}])
def test_outputs_are_named_in_their_order_or_by_a_map(labels):
    made = ModelRef.model_validate({"checkpoint": "x", "labels": labels})
    assert made.labels == labels
    assert ModelRef.model_validate(made.model_dump(mode="json")) == made


@pytest.mark.parametrize(
    ("labels", "line"),
    [
        ({"World": 3.5}, "labels.World is 3.5; it should be a valid string"),
        ({3.5: "world"}, "labels.3.5 is 3.5; it should be a valid string"),
        ([True], "labels.0 is True; it should be a valid string"),
        ("world", "labels is 'world'; it should be a valid list"),
    ],
)
def test_a_mistake_in_names_is_told_in_one_line(labels, line):
    with pytest.raises(ValidationError) as error:
        ModelRef.model_validate({"checkpoint": "x", "labels": labels})
    assert error_lines(error.value) == [line]
