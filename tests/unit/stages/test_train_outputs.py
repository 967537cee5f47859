"""What a training stage hands its workers of its teachers: stored outputs, or where those lie that run."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raydistill.config.sections import ScalingConfig
from raydistill.data import teacher_inference
from raydistill.models.load import load_config
from raydistill.stages import _corpora, _models, train
from raydistill.stages._base import Input, ModelFacts
from raydistill.training.result import TrainResult
from raydistill.training.spec import TrainSpec
from toys.capture import KEY, context_of, outputs_here, save_teacher, train_stage, write_labelled
from toys.tracker import MemoryTracker


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("outputs")
    write_labelled(found)
    save_teacher(found / "large", seed=4, num_layers=4)
    return found


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[TrainSpec]:
    """What would be trained, instead of training it."""
    specs: list[TrainSpec] = []

    def record(spec: TrainSpec, output: str, *arguments: Any, **options: Any) -> TrainResult:
        specs.append(spec)
        return TrainResult(student=output, metrics={}, step=1, stopped="", delivered="last", best_metric="loss")

    monkeypatch.setattr(train, "train", record)
    monkeypatch.setattr(teacher_inference, "_outputs", outputs_here)
    return specs


def tags_of(folder: Path, storage: Path, output: str, **changes: Any) -> dict[str, Any]:
    """Tags of a run of the stage."""
    stage = train_stage(folder, **changes)
    context = context_of(stage, storage / output, storage=storage)
    stage.run(context)
    assert isinstance(context.tracker, MemoryTracker)
    return dict(context.tracker.runs[KEY].tags)


def test_workers_get_stored_outputs_and_no_teacher_and_the_next_job_runs_none(
    folder: Path, tmp_path: Path, handed: list[TrainSpec]
) -> None:
    tags = [tags_of(folder, tmp_path, output) for output in ("job/first", "other/second")]
    first, second = handed
    assert [spec.teacher_rows for spec in handed] == [110, 0]
    assert first.stored == second.stored is not None
    assert first.validation_stored == second.validation_stored is not None
    assert [spec.teachers for spec in handed] == [[], []]
    assert tags[0]["teacher_outputs"].startswith("stored, because this training reads 180 rows")
    assert "placement" not in tags[0]


def test_a_teacher_that_runs_is_handed_with_its_place(folder: Path, tmp_path: Path, handed: list[TrainSpec]) -> None:
    tags = tags_of(folder, tmp_path, "job/live", teacher_outputs="live")
    [spec] = handed
    assert (spec.stored, spec.teacher_rows) == (None, 0)
    assert [teacher.placement for teacher in spec.teachers] == ["replicate"]
    assert tags["teacher_outputs"] == "live"
    assert tags["placement"].startswith("replicate, because with the student they take 0.00 GiB of ")
    assert not (tmp_path / "teacher_outputs").exists()


def test_teachers_in_turn_are_handed_as_such(folder: Path, tmp_path: Path, handed: list[TrainSpec]) -> None:
    teachers = [{"checkpoint": str(folder / name), "placement": "sequential"} for name in ("teacher", "large")]
    tags = tags_of(folder, tmp_path, "job/turns", method="dynamic_teacher", teachers=teachers)
    assert [teacher.placement for teacher in handed[0].teachers] == ["sequential"] * 2
    assert tags["placement"] == "sequential, because placement says so"
    assert tags["teacher_outputs"] == "live, because teachers.0.placement is 'sequential'"


@pytest.mark.parametrize("changes", [{}, {"teacher_outputs": "live"}, {"training": {"max_steps": 2}}])
def test_what_a_run_decides_is_what_was_decided_before_anything_was_made(
    folder: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    shutil.copytree(folder / "teacher", tmp_path / "student")
    stage = train_stage(folder, corpus="corpus", teachers=["teacher"], **changes)
    teacher = ModelFacts({"": load_config(folder / "teacher")}, _models.hash_of_folder(folder / "teacher"))
    planned = {"corpus": Input(_corpora.of_folder(folder / "corpus")), "teacher": Input(teacher)}
    made = {"corpus": Input(folder=folder / "corpus"), "teacher": Input(folder=tmp_path)}
    before, then = (stage.plan(ScalingConfig(), inputs) for inputs in (planned, made))
    assert then.teachers[0].folder == tmp_path / "student"
    alike = [replace(one, student=None, teachers=(), makes=None) for one in (before, then)]
    assert alike[0] == alike[1]
    sizes = [{**one.student.to_dict(), "_name_or_path": ""} for one in (before, then)]
    assert sizes[0] == sizes[1]
