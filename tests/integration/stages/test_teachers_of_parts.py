"""Teachers of parts of the classes, one trained on its part here, to a student of all of them, live and stored."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from raydistill.config.sections import ScalingConfig
from raydistill.data.stored_outputs import TEACHER_ROWS
from raydistill.data.teacher_outputs import OutputSet
from raydistill.stages import train
from raydistill.training.history import read_history
from toys.capture import capture_stage, context_of, save_teacher, train_stage, write_labelled
from toys.classifiers import CLASSES

WARM = ["green", "red"]
NUM_STEPS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Path:
    found = tmp_path_factory.mktemp("parts")
    write_labelled(found)
    save_teacher(found / "cold", seed=3, labels=("grey", "blue", "green"))
    return found


@pytest.fixture(scope="module")
def warm(folder: Path) -> dict[str, Any]:
    """A classifier of red and green alone, trained on their rows."""
    start = {"init": "checkpoint", "checkpoint": {"checkpoint": str(folder / "teacher"), "head": "new"}}
    stage = train_stage(
        folder,
        corpus={"corpus": str(folder / "corpus"), "label_subset": WARM},
        method="finetune",
        teachers=[],
        student=start,
        teacher_outputs="live",
        training={"num_epochs": 1},
    )
    stage.plan(ScalingConfig(), {})
    context = context_of(stage, folder / "warm")
    return {"summary": stage.run(context), "history": read_history(context.output)}


def test_a_classifier_of_a_part_of_the_classes_learns_from_their_rows_alone(warm: dict[str, Any]) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(warm["summary"]["student"])
    assert model.config.id2label == {0: "red", 1: "green"}
    [accuracy] = [line["eval/accuracy"] for line in warm["history"] if "eval/accuracy" in line][-1:]
    assert 0 <= accuracy <= 1
    steps = [line for line in warm["history"] if "train/ce" in line]
    assert 0 < len(steps) < NUM_STEPS


def teachers_of(folder: Path, warm: dict[str, Any]) -> list[Any]:
    """Both teachers; the second leaves out a class that the corpus lacks."""
    return [warm["summary"]["student"], {"checkpoint": str(folder / "cold"), "labels": {"grey": None}}]


def joining(folder: Path, warm: dict[str, Any], **changes: Any) -> train.Stage:
    """``vkd`` of both teachers."""
    training = {"metric_for_best_model": "agreement", "load_best_model_at_end": True, "batch_size": 46}
    return train_stage(folder, method="vkd", teachers=teachers_of(folder, warm), training=training, **changes)


@pytest.fixture(scope="module")
def captured(folder: Path, warm: dict[str, Any]) -> Path:
    stage = capture_stage(folder, teachers=teachers_of(folder, warm))
    context = context_of(stage, folder / "captured", num_workers=2)
    stage.plan(ScalingConfig(), {})
    stage.run(context)
    return context.output


def test_each_set_has_the_classes_of_its_teacher(captured: Path) -> None:
    headers = [OutputSet.open(str(captured / f"teacher_{n}" / "corpus_0" / "train")).header for n in range(2)]
    assert [header.labels for header in headers] == [("red", "green"), ("green", "blue")]
    assert [header.columns["logits"].shape for header in headers] == [(2,), (2,)]
    assert headers[1].names == (None, "blue", "green")


@pytest.fixture(scope="module")
def trainings(folder: Path, warm: dict[str, Any], captured: Path) -> dict[str, Any]:
    """Two epochs by two workers: with the teachers, and with what they said."""
    found = {}
    for name, reference in {"live": "live", "stored": str(captured)}.items():
        stage = joining(folder, warm, teacher_outputs=reference)
        forecast = stage.plan(ScalingConfig(num_workers=2), {})
        context = context_of(stage, folder / name, num_workers=2, data_cpus=2)
        summary = stage.run(context)
        found[name] = {"summary": summary, "history": read_history(context.output), "lines": forecast.lines}
    return found


def values(training: dict[str, Any], metric: str) -> list[float]:
    return [line[metric] for line in training["history"] if metric in line]


def test_stored_outputs_of_parts_teach_what_the_teachers_teach(trainings: dict[str, Any]) -> None:
    live, stored = trainings["live"], trainings["stored"]
    for metric, count in {"train/loss": NUM_STEPS, "validation/loss": 3, "validation/agreement": 3}.items():
        assert len(values(live, metric)) == count
        assert values(stored, metric) == pytest.approx(values(live, metric), abs=1e-6, rel=1e-6)
    assert len(set(values(live, "validation/loss"))) == 3
    assert set(values(stored, TEACHER_ROWS)) == {0}
    # Two epochs of 90 rows and three evaluations of 20, each of two teachers.
    assert values(live, TEACHER_ROWS)[-1] == 2 * (2 * 90 + 3 * 20)
    students = [AutoModelForSequenceClassification.from_pretrained(one["summary"]["student"]) for one in (live, stored)]
    assert students[0].config.id2label == dict(enumerate(CLASSES))
    first, second = (student.state_dict() for student in students)
    for name, tensor in first.items():
        # A key's bias changes no attention: its gradient is rounding alone, which Adam makes steps of.
        if not name.endswith("key.bias"):
            torch.testing.assert_close(second[name], tensor, atol=1e-6, rtol=0)


def test_the_student_is_chosen_by_its_agreement_with_the_teachers_without_labels(trainings: dict[str, Any]) -> None:
    live = trainings["live"]
    assert "delivers the student with the greatest validation/agreement, which reads no labels" in live["lines"]
    summary = live["summary"]
    assert (summary["best_metric"], summary["delivered"]) == ("validation/agreement", "best")
    # The evaluation before the first step is no candidate.
    assert summary["best_value"] == max(values(live, "validation/agreement")[1:])
