"""How a version of a registered model is written."""

import pytest

from raydistill.registry.reference import ModelReference, is_registered


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("student", ModelReference("student")),
        ("student@candidate", ModelReference("student", alias="candidate")),
        ("student/3", ModelReference("student", version=3)),
        ("models:/student@candidate", ModelReference("student", alias="candidate")),
        ("models:/student/3", ModelReference("student", version=3)),
        ("student:onnx-int8", ModelReference("student", export="onnx-int8")),
        ("models:/student@candidate:onnx", ModelReference("student", alias="candidate", export="onnx")),
        ("models:/student/3:onnx", ModelReference("student", version=3, export="onnx")),
    ],
)
def test_a_command_takes_names_aliases_versions_and_mlflows_uris(text, reference):
    assert ModelReference.parse(text) == reference


@pytest.mark.parametrize("text", ["models:/student@candidate", "models:/student/3", "models:/student/3:onnx-int8"])
def test_a_checkpoint_is_one_of_mlflows_uris_and_written_back_as_it_was(text):
    assert str(ModelReference.parse_checkpoint(text)) == text
    assert is_registered(text)


@pytest.mark.parametrize("text", ["a/b/c", "student@", "student@a/3", "student/three", "@candidate", "a:", "a:b@c", ""])
def test_what_names_no_version_is_refused_with_the_forms_that_there_are(text):
    with pytest.raises(ValueError, match=f"model is '{text}'; write NAME, NAME@ALIAS or NAME/VERSION"):
        ModelReference.parse(text)


@pytest.mark.parametrize("text", ["models:/student", "models:/student@a@b", "student@candidate"])
def test_a_checkpoint_without_scheme_alias_or_version_is_refused(text):
    with pytest.raises(ValueError, match="write models:/NAME@ALIAS or models:/NAME/VERSION"):
        ModelReference.parse_checkpoint(text)
