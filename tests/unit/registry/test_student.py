"""What is found among the versions of a registered student."""

import pytest

from raydistill.registry.reference import ModelReference
from raydistill.registry.student import FiguresRow, RegisteredStudent, StudentVersion, figures_tag


def version(number: int, *, accuracy: float | None = None, greater: bool = True) -> StudentVersion:
    tags = {"compared_by": f'{{"metric": "accuracy", "greater_is_better": {str(greater).lower()}}}'}
    return StudentVersion(
        "s", number, {**tags, **figures_tag([FiguresRow("student", "kd", {"accuracy": accuracy})] if accuracy else [])}
    )


def student(*versions: StudentVersion, **aliases: int) -> RegisteredStudent:
    return RegisteredStudent("s", versions, aliases)


@pytest.mark.parametrize(("text", "number"), [("s", 3), ("s@champion", 1), ("s/2", 2)])
def test_a_reference_means_the_newest_that_of_an_alias_or_that_of_a_number(text: str, number: int) -> None:
    known = student(version(3), version(2), version(1), champion=1)
    assert known.version(ModelReference.parse(text)).number == number


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s/9", "version is 9, which 's' does not have; versions: 2, 1"),
        ("s@champoin", "alias is 'champoin'; did you mean 'champion'"),
    ],
)
def test_what_is_not_there_is_refused_with_the_choices(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        student(version(2), version(1), champion=1).version(ModelReference.parse(text))


def test_an_alias_of_a_student_without_any_is_refused_with_a_version_to_give() -> None:
    with pytest.raises(ValueError, match="alias is 'champion', but 's' has none; give a version, such as s/1"):
        student(version(1)).version(ModelReference.parse("s@champion"))


@pytest.mark.parametrize(("greater", "best"), [(True, ("accuracy", 0.9, 1)), (False, ("accuracy", 0.8, 2))])
def test_the_best_version_is_that_of_the_figure_which_its_job_compares_by(greater: bool, best: tuple) -> None:
    versions = [version(3, greater=greater), version(2, accuracy=0.8), version(1, accuracy=0.9)]
    assert student(*versions).best == best


def test_a_version_made_anew_under_the_same_number_has_another_content_key() -> None:
    first, again = (StudentVersion("s", 1, {}, source="models:/m-1", created_ms=at) for at in (5, 6))
    assert first.content_key != again.content_key
