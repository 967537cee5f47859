"""Further best students: how a job names their criteria, and what of them stays on disk."""

from pathlib import Path

import pytest

from raydistill.config.named import MethodSpec, TaskSpec
from raydistill.config.training import TrainingConfig
from raydistill.stages._base import stage_of, suffix_of
from raydistill.training.best_students import BestStudents
from raydistill.training.position import Position
from raydistill.training.selection import BestSoFar, Criterion, best_folder, further_criteria

TASK = TaskSpec.parse({"name": "glue", "task": "rte"})
METHOD = MethodSpec.parse("finetune")
ALSO = {"loss": {"metric": "eval/loss", "saving_criterion": 0.6}}


def training(**keys: object) -> TrainingConfig:
    return TrainingConfig.model_validate({"metric_for_best_model": "accuracy", **keys})


def test_both_published_criteria_are_compared_each_by_its_own_limit() -> None:
    config = training(saving_criterion=0.8, also_best=ALSO)
    bests = BestStudents.of(config, TASK, METHOD, ("entailment", "not_entailment"), Path("out"))
    assert bests.criterion == Criterion("eval/accuracy", greater_is_better=True, saving_criterion=0.8)
    option = "training.also_best.loss.metric"
    wanted = Criterion("eval/loss", greater_is_better=False, saving_criterion=0.6, option=option)
    assert bests.further == {"loss": wanted}


@pytest.mark.parametrize(
    ("best", "message"),
    [
        ({"metric": "f2"}, "training.also_best.loss.metric is 'f2'; "),
        ({"metric": "loss", "greater_is_better": True}, "training.also_best.loss.greater_is_better is True, but the"),
    ],
)
def test_a_metric_that_no_evaluation_has_is_refused_under_its_own_key(best: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        further_criteria(training(also_best={"loss": best}), TASK, METHOD)


@pytest.mark.parametrize("name", ["Loss", "the loss", "", "1st"])
def test_names_are_those_that_a_reference_can_have(name: str) -> None:
    with pytest.raises(ValueError, match="also_best"):
        training(also_best={name: {"metric": "loss"}})


def test_a_training_that_is_evaluated_once_has_no_further_best_students() -> None:
    with pytest.raises(ValueError, match="also_best is loss, but the only evaluation is the one at the end"):
        training(also_best=ALSO, num_epochs=1, eval_steps=None)


def test_a_training_without_any_is_written_as_before() -> None:
    assert "also_best" not in training().model_dump(mode="json")
    again = TrainingConfig.model_validate(training(also_best=ALSO).model_dump(mode="json"))
    assert again == training(also_best=ALSO)


@pytest.mark.parametrize(
    ("reference", "stage", "suffix"),
    [
        ("ptp", "ptp", ""),
        ("ptp@initial", "ptp", "@initial"),
        ("ptp@best_loss", "ptp", "@best_loss"),
        ("ptp[seed=1]@best_loss", "ptp[seed=1]", "@best_loss"),
        ("models:/student@candidate", "models:/student@candidate", ""),
        ("ptp@best", "ptp@best", ""),
    ],
)
def test_a_reference_names_a_stage_and_one_of_its_students(reference: str, stage: str, suffix: str) -> None:
    assert (stage_of(reference), suffix_of(reference)) == (stage, suffix)


def kept(step: int | None) -> BestSoFar:
    return BestSoFar(best_value=0.5, best_step=step or 1, kept_step=step)


def bests_in(folder: Path) -> BestStudents:
    config = training(also_best={**ALSO, "f1": {"metric": "accuracy"}})
    bests = BestStudents.of(config, TASK, METHOD, (), folder)
    for step in (1, 2, 3, 4):
        best_folder(folder, step).mkdir()
        (best_folder(folder, step) / "step").write_text(str(step))
    return bests


def test_students_stay_that_are_the_best_by_any_criterion_or_were_so_in_a_checkpoint(tmp_path: Path) -> None:
    bests = bests_in(tmp_path)
    position = Position(standing=kept(1), further={"loss": kept(2), "f1": kept(None)})
    bests.remember(position, num_saves=1)
    position.standing, position.further["loss"] = kept(4), kept(4)
    bests.prune(position)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best-1", "best-2", "best-4"]
    for _ in range(2):
        bests.remember(position, num_saves=1)
    bests.prune(position)
    assert [path.name for path in tmp_path.iterdir()] == ["best-4"]


def test_each_further_best_student_has_a_folder_and_a_line(tmp_path: Path) -> None:
    bests = bests_in(tmp_path)
    student = tmp_path / "student"
    student.mkdir()
    (student / "step").write_text("last")
    lines = list(bests.deliver_further(Position(further={"loss": kept(3)}), student))
    assert [(tmp_path / name / "step").read_text() for name in ("best_loss", "best_f1")] == ["3", "last"]
    assert lines[0] == "best_loss is the student of step 3: eval/loss is 0.5"
    assert lines[1].startswith("no student beat training.also_best.f1.saving_criterion=None in eval/accuracy")
    assert lines[1].endswith("; best_f1 is the trained student")
