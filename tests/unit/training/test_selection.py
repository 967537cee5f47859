"""Which student is the best, when training stops, and which folders stay."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from raydistill.config.named import MethodSpec, TaskSpec
from raydistill.config.training import TrainingConfig
from raydistill.methods import finetune
from raydistill.methods._base import Execution
from raydistill.training import selection
from raydistill.training.selection import BestSoFar, Criterion, criterion_of, selection_line, stop_reason, updated

MLM = TaskSpec.parse("mlm")
FINETUNE = MethodSpec.parse("finetune")
LOSS = Criterion("validation/loss", greater_is_better=False)
ACCURACY = Criterion("eval/accuracy", greater_is_better=True)


def after(criterion: Criterion, values: list[float]) -> BestSoFar:
    """The standing after evaluations at steps 1, 2, ..."""
    standing = BestSoFar()
    for step, value in enumerate(values, start=1):
        standing = updated(standing, criterion, step=step, value=value)
    return standing


def stops_at(criterion: Criterion, values: list[float]) -> int | None:
    """The first step at which there is a reason to stop."""
    return next(
        (step for step in range(1, len(values) + 1) if stop_reason(after(criterion, values[:step]), criterion)), None
    )


@pytest.mark.parametrize(
    ("name", "key", "greater"),
    [
        ("loss", "validation/loss", False),
        ("accuracy", "eval/accuracy", True),
        ("perplexity", "eval/perplexity", False),
        ("eval/loss", "eval/loss", False),
        ("validation/ce", "validation/ce", False),
    ],
)
def test_a_metric_is_named_as_it_is_logged_or_by_its_last_part(name, key, greater):
    criterion = criterion_of(TrainingConfig(metric_for_best_model=name), MLM, FINETUNE)
    assert (criterion.key, criterion.greater_is_better) == (key, greater)


@pytest.mark.parametrize(
    ("name", "greater", "better"),
    [("loss", True, "least"), ("accuracy", False, "greatest"), ("eval/loss", True, "least")],
)
def test_a_direction_that_is_not_the_metrics_own_is_refused(name, greater, better):
    message = f"training.greater_is_better is {greater}, but the best {name} is the {better}; leave "
    with pytest.raises(ValueError, match=message):
        criterion_of(TrainingConfig(metric_for_best_model=name, greater_is_better=greater), MLM, FINETUNE)
    assert criterion_of(TrainingConfig(metric_for_best_model=name, greater_is_better=not greater), MLM, FINETUNE)


def test_a_term_that_is_better_in_no_direction_needs_one():
    muki, task, name = MethodSpec.parse("muki"), TaskSpec.parse("classification"), "validation/teacher_1_share"
    with pytest.raises(
        ValueError, match=f"{name}', for which neither more nor less is better; set training.greater_is"
    ):
        criterion_of(TrainingConfig(metric_for_best_model=name), task, muki)
    stated = TrainingConfig(metric_for_best_model=name, greater_is_better=True)
    assert criterion_of(stated, task, muki) == Criterion(name, greater_is_better=True)


@pytest.mark.parametrize(
    "name",
    ["acuracy", "eval/f1", "train/loss", "tokens", "held_out/anything", "validation/anything", "validation/muki"],
)
def test_a_metric_that_no_evaluation_has_is_refused_with_the_choices(name):
    with pytest.raises(
        ValueError, match=r"metric_for_best_model is '.*'; .*hoices: loss, .*accuracy, .*validation/mlm"
    ):
        criterion_of(TrainingConfig(metric_for_best_model=name), MLM, FINETUNE)


def test_a_term_that_the_method_lacks_is_refused_at_an_evaluation_with_its_choices():
    criterion = criterion_of(TrainingConfig(metric_for_best_model="validation/mse"), MLM, FINETUNE)
    with pytest.raises(ValueError, match=r"'validation/mse'.*choices: eval/loss, validation/ce"):
        criterion.value({"validation/ce": 1.0, "eval/loss": 2.0})


def test_the_best_is_the_smallest_loss_or_the_greatest_accuracy():
    values = [0.5, 0.3, 0.7, 0.3]
    assert (after(LOSS, values).best_value, after(LOSS, values).best_step) == (0.3, 2)
    assert (after(ACCURACY, values).best_value, after(ACCURACY, values).best_step) == (0.7, 3)


def test_the_first_of_equal_values_is_the_best():
    assert after(ACCURACY, [0.7, 0.7]).best_step == 1


def test_a_student_is_kept_only_when_it_beats_the_criterion():
    strict = Criterion("eval/accuracy", greater_is_better=True, saving_criterion=0.7)
    assert after(strict, [0.5, 0.7]).kept_step is None
    assert after(strict, [0.5, 0.7]).best_step == 2
    assert after(strict, [0.5, 0.7, 0.71, 0.6]).kept_step == 3
    assert after(ACCURACY, [0.5, 0.7]).kept_step == 2


def test_a_loss_beats_the_criterion_from_below():
    strict = Criterion("validation/loss", greater_is_better=False, saving_criterion=0.7)
    assert after(strict, [0.7]).kept_step is None
    assert after(strict, [0.69]).kept_step == 1


def test_patience_counts_evaluations_in_a_row_without_an_improvement():
    patient = Criterion("validation/loss", greater_is_better=False, patience=2)
    assert stops_at(patient, [3.0, 3.1, 2.9, 2.9, 2.95, 1.0]) == 5
    assert stops_at(patient, [3.0, 2.9, 2.8, 2.7]) is None
    assert stops_at(LOSS, [1.0] * 9) is None


def test_a_small_improvement_is_the_best_and_yet_spends_patience():
    patient = Criterion("validation/loss", greater_is_better=False, patience=2, threshold=0.1)
    values = [3.0, 2.95, 2.9]
    assert stops_at(patient, values) == 3
    assert after(patient, values).best_step == 3


def test_the_reason_to_stop_names_metric_value_and_step():
    patient = Criterion("eval/accuracy", greater_is_better=True, patience=1)
    reason = stop_reason(after(patient, [0.25, 0.125]), patient)
    assert "early_stopping_patience=1 is spent without a better eval/accuracy, whose best is 0.25 at step 1" in reason


def test_what_is_no_number_is_never_the_best_and_spends_patience():
    patient = Criterion("eval/f1", greater_is_better=True, patience=2)
    assert after(patient, [math.nan, 0.1]).best_step == 2
    assert stops_at(patient, [math.nan, math.nan]) == 2
    assert "never was a number" in stop_reason(after(patient, [math.nan] * 2), patient)


def test_a_standing_continues_as_if_it_had_not_been_stored():
    patient = Criterion("validation/loss", greater_is_better=False, patience=3)
    half = after(patient, [3.0, 3.1])
    stored = BestSoFar(**vars(half))
    assert updated(stored, patient, step=3, value=3.2) == after(patient, [3.0, 3.1, 3.2])


def test_a_missing_best_student_is_told_with_the_best_there_was():
    strict = Criterion("eval/accuracy", greater_is_better=True, saving_criterion=0.9)
    note = selection.missing_note(after(strict, [0.5]), strict)
    assert "saving_criterion=0.9 in eval/accuracy, whose best is 0.5 at step 1" in note
    assert "the last one" in note


def test_pruning_leaves_the_students_of_the_given_steps_and_whatever_else_is_there(tmp_path: Path):
    for name in ("best-2", "best-12", "best-20", "student", ".best-7.123"):
        (tmp_path / name).mkdir()
    selection.prune_best(tmp_path, [None, 12])
    assert {entry.name for entry in tmp_path.iterdir()} == {"best-12", "student", ".best-7.123"}


def test_a_copy_replaces_what_was_there(tmp_path: Path):
    for name, content in {"best-3": "new", "student": "old"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "model").write_text(content)
    (tmp_path / "student" / "other").touch()
    selection.replace_by_copy(tmp_path / "student", tmp_path / "best-3")
    assert [(entry.name, entry.read_text()) for entry in (tmp_path / "student").iterdir()] == [("model", "new")]
    assert {entry.name for entry in tmp_path.iterdir()} == {"best-3", "student"}


@pytest.fixture
def joining(monkeypatch):
    """A method that joins teachers of parts of the classes and tells how often the student agrees with them."""
    asked = replace(finetune.Method.requirements(finetune.Config()), execution=Execution(partial_label_space=True))
    monkeypatch.setattr(finetune.Method, "requirements", classmethod(lambda cls, config: asked))
    monkeypatch.setattr(finetune.Method, "directions", {"agreement": True})
    return FINETUNE


@pytest.mark.parametrize("name", ["agreement", "validation/agreement"])
def test_agreement_with_the_teachers_is_higher_is_better(joining, name):
    criterion = criterion_of(TrainingConfig(metric_for_best_model=name), MLM, joining)
    assert (criterion.key, criterion.greater_is_better) == ("validation/agreement", True)


def test_agreement_is_no_choice_of_a_method_without_it():
    with pytest.raises(ValueError, match="metric_for_best_model is 'agreement'; Choices: loss, "):
        criterion_of(TrainingConfig(metric_for_best_model="agreement"), MLM, FINETUNE)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "delivers the last student; no labels are read to train or to choose it"),
        (
            {"metric_for_best_model": "agreement", "load_best_model_at_end": True},
            "delivers the student with the greatest validation/agreement, which reads no labels",
        ),
        (
            {"metric_for_best_model": "accuracy", "load_best_model_at_end": True},
            "delivers the student with the greatest eval/accuracy, which reads the labels of validation rows",
        ),
        (
            {"early_stopping_patience": 2},
            "delivers the last student, and stops early by the least validation/loss, which reads no labels",
        ),
    ],
)
def test_what_chooses_the_student_is_told_with_what_it_reads(joining, options, line):
    training = TrainingConfig(**options)
    assert selection_line(training, joining, criterion_of(training, MLM, joining)) == line


def test_nothing_is_told_of_methods_that_learn_from_labels():
    assert selection_line(TrainingConfig(), FINETUNE, criterion_of(TrainingConfig(), MLM, FINETUNE)) == ""
