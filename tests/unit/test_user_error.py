import pickle

import pytest
from ray.exceptions import RayTaskError
from ray.train import TrainingFailedError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2.api.exceptions import WorkerGroupError

from raydistill.training.agreement import StorageError
from raydistill.user_error import UserError, placed, user_error_of


def test_a_place_starts_every_line_and_the_outer_one_comes_first():
    with pytest.raises(UserError) as caught, placed("stages.corpus"), placed("a.csv line 3"):
        raise UserError(["label is 'x'; give one", "text is empty; give one"])
    assert caught.value.lines == [
        "stages.corpus: a.csv line 3: label is 'x'; give one",
        "stages.corpus: a.csv line 3: text is empty; give one",
    ]
    assert str(caught.value) == "\n".join(caught.value.lines)


def test_what_a_library_says_over_several_lines_becomes_one():
    assert UserError("it is damaged (a\nb); fetch it again").lines == ["it is damaged (a b); fetch it again"]


@pytest.mark.parametrize("value", ["a" * 10_000, "a b; c" * 10_000, "[1, 2] " * 10_000])
def test_of_a_long_value_the_start_is_told_and_the_remedy_stays(value):
    [line] = UserError(f"name is {value!r}, which is long; shorten it to 'x'", place="a.yaml").lines
    assert line.startswith(f"a.yaml: name is {value[:10]!r}"[:-1])
    assert line.endswith("..., which is long; shorten it to 'x'")
    assert len(line) < 200


def test_of_a_long_line_without_a_long_value_both_ends_stay():
    choices = ", ".join(f"'choice-{number}'" for number in range(10_000))
    [line] = UserError(f"name is 'x'; choose one of {choices}; or leave it out").lines
    assert line.startswith("name is 'x'; choose one of 'choice-0', ")
    assert line.endswith(", 'choice-9999'; or leave it out")
    assert len(line) < 4100


@pytest.mark.parametrize("kind", [UserError, StorageError])
def test_a_pickled_one_keeps_its_type_and_its_lines(kind):
    error = pickle.loads(pickle.dumps(kind(["one", "two"], place="a.yaml")))
    assert type(error) is kind
    assert error.lines == ["a.yaml: one", "a.yaml: two"]


def test_a_block_leaves_other_errors_as_they_are():
    with pytest.raises(KeyError), placed("stages.corpus"):
        raise KeyError("a")


def of_a_task(error):
    """What Ray raises where a task's result is asked for."""
    return RayTaskError("task", "Traceback ...", error).as_instanceof_cause()


def test_it_is_found_in_what_ray_makes_of_it():
    error = UserError("label is 'x'; give one")
    in_worker = UserExceptionWithTraceback(of_a_task(error), traceback_str="Traceback ...")
    for brought in (
        error,
        of_a_task(error),
        RayTaskError("task", "Traceback ...", of_a_task(error)),
        WorkerGroupError("a worker failed", {0: in_worker}),
    ):
        assert user_error_of(brought) is error


def test_a_training_that_failed_for_another_reason_is_not_the_users_to_fix():
    in_worker = UserExceptionWithTraceback(ValueError("shapes differ"), traceback_str="Traceback ...")
    assert user_error_of(WorkerGroupError("a worker failed", {0: in_worker})) is None
    assert user_error_of(of_a_task(ValueError("shapes differ"))) is None
    assert user_error_of(TrainingFailedError("lost")) is None


def test_what_was_being_handled_when_a_fault_arose_does_not_excuse_it():
    fault = KeyError("a")
    fault.__cause__ = fault.__context__ = UserError("label is 'x'; give one")
    assert user_error_of(fault) is None
