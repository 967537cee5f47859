"""What a job says of a checkpoint's outputs counts in every stage that reads it."""

from pathlib import Path
from typing import Any

import pytest

from raydistill.config.sections import ScalingConfig
from raydistill.job.load import Job, load_job
from raydistill.models.load import save_model
from raydistill.user_error import UserError
from toys.capture import write_labelled
from toys.classifiers import CLASSES, toy_classifier
from toys.models import toy_bert
from toys.words import make_tokenizer

TEACHER = "someone/teacher"
SAID = ["negative", "positive"]
CORPUS = {
    "kind": "binarize",
    "source": {"name": "text", "path": "a.txt"},
    "encoding": {"name": "classification", "labels": SAID},
    "tokenizer": TEACHER,
}
STUDENT = {
    "kind": "train",
    "corpus": "corpus",
    "task": "classification",
    "method": "kd",
    "teachers": [{"checkpoint": TEACHER, "placement": "replicate"}],
    "student": {"layers": [0]},
}
EVALUATE = {
    "kind": "evaluate",
    "corpus": "corpus",
    "task": "classification",
    "models": {"teacher": TEACHER, "student": "student"},
    "ensembles": {"both": {"members": [TEACHER, "student"]}},
}


def job(labels: dict[str, Any], **stages: Any) -> Job:
    every = {"corpus": CORPUS, "student": STUDENT, "evaluate": EVALUATE, **stages}
    return load_job({"name": "toy", "labels": labels, "stages": every})


def test_every_reference_to_the_checkpoint_says_what_its_outputs_are() -> None:
    stages = job({TEACHER: SAID}).stages
    [teacher] = stages["student"].config.teachers
    assert (teacher.labels, teacher.placement) == (SAID, "replicate")
    models = stages["evaluate"].config.models
    assert (models["teacher"].labels, models["student"].labels) == (SAID, [])
    assert [one.labels for one in stages["evaluate"].config.ensembles["both"].members] == [SAID, []]


def test_stages_are_those_that_say_it_themselves() -> None:
    """So that what was made of them before is found again."""
    teachers = [{"checkpoint": TEACHER, "placement": "replicate", "labels": SAID}]
    once, everywhere = job({TEACHER: SAID}), job({}, student={**STUDENT, "teachers": teachers})
    assert once.stages["student"].config == everywhere.stages["student"].config
    assert once.stages["corpus"].config == everywhere.stages["corpus"].config


def test_runs_of_a_matrix_have_it_too() -> None:
    made = job({TEACHER: SAID}, student={**STUDENT, "matrix": {"seed": [1, 2]}})
    runs = [run.stage.config for name, run in made.runs.items() if name.startswith("student[")]
    assert [one.teachers[0].labels for one in runs] == [SAID, SAID]


def test_a_reference_that_says_it_itself_or_starts_a_new_head_stays_as_it_is() -> None:
    own = {"LABEL_0": "positive", "LABEL_1": "negative"}
    student = {
        **STUDENT,
        "teachers": [{"checkpoint": TEACHER, "labels": own}],
        "student": {"checkpoint": {"checkpoint": TEACHER, "head": "new"}, "layers": [0]},
    }
    config = job({TEACHER: SAID}, student=student).stages["student"].config
    assert config.teachers[0].labels == own
    assert config.student.checkpoint.labels == []


def test_the_resolved_job_says_the_same_when_it_is_run_again() -> None:
    made = job({TEACHER: {"LABEL_0": "negative", 1: None}})
    again = load_job(made.dump())
    assert made.dump()["labels"] == {TEACHER: {"LABEL_0": "negative", "1": None}}
    assert again.dump() == made.dump()


def test_what_is_no_list_and_no_map_is_refused() -> None:
    with pytest.raises(UserError, match=f"^labels.{TEACHER} is 'negative'; it should be a valid list$"):
        job({TEACHER: "negative"})


def test_a_checkpoint_with_nameless_outputs_fits_once_the_job_names_them(tmp_path: Path) -> None:
    write_labelled(tmp_path)
    model = toy_classifier(toy_bert, 2, labels=tuple(f"LABEL_{number}" for number in range(len(CLASSES))))
    save_model(model.float().eval(), make_tokenizer(), tmp_path / "nameless")
    checkpoint = str(tmp_path / "nameless")
    stages = {"student": {**STUDENT, "corpus": str(tmp_path / "corpus"), "teachers": [checkpoint]}}
    [said, nameless] = (
        load_job({"name": "toy", "labels": labels, "stages": stages}) for labels in ({checkpoint: list(CLASSES)}, {})
    )
    with pytest.raises(UserError, match=r"calls its classes LABEL_0, .* beside it, or once under the job's labels$"):
        nameless.stages["student"].plan(ScalingConfig(), {})
    assert said.stages["student"].plan(ScalingConfig(), {}).lines
