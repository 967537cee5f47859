"""Teachers of parts of the classes: what a preflight takes, what it refuses, and what a capture stores of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydistill.config.sections import ScalingConfig
from raydistill.data import teacher_inference
from raydistill.data.corpus import Corpus
from raydistill.data.mixture import CorpusPart
from raydistill.data.stream import BatchBuilder, FeedSpec
from raydistill.data.teacher_inference import TeacherOutputs
from raydistill.methods import kd, vkd
from raydistill.models.load import load_config, load_model
from raydistill.models.predictions import predict
from raydistill.stages import _stored_outputs, _student, _training_plan
from raydistill.stages._base import CorpusFacts, Input, OutputsFacts
from raydistill.stages._models import Fitted, Model
from raydistill.stages._training_plan import TrainDecisions
from raydistill.stages.train import Config
from raydistill.tasks._base import Column
from toys.capture import capture_stage, context_of, outputs_here, run_of, save_teacher, train_stage, write_labelled
from toys.classifiers import CLASSES

PARTS = {"warm": ("green", "red"), "cold": ("blue", "green"), "odd": ("red", "grey"), "all": CLASSES[::-1]}
"""Classes of each teacher in the order of its outputs; the corpus has red, green and blue."""
HEAD = "sequence_classification"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("parts")
    write_labelled(found)
    for seed, (name, labels) in enumerate(PARTS.items()):
        save_teacher(found / name, seed=seed, labels=labels)
    return found


@pytest.fixture
def joining(monkeypatch: pytest.MonkeyPatch) -> None:
    """Method kd as one that takes several teachers of parts of the classes."""
    needs = kd.Method.requirements(kd.Config())
    asked = replace(needs, max_teachers=None, execution=replace(needs.execution, partial_label_space=True))
    monkeypatch.setattr(kd.Method, "requirements", classmethod(lambda cls, config: asked))


def config_of(folder: Path, *teachers: Any, **changes: Any) -> Config:
    named = [
        {"checkpoint": str(folder / one)}
        if isinstance(one, str)
        else {**one, "checkpoint": str(folder / one["checkpoint"])}
        for one in teachers
    ]
    facts = {"teachers": named, "teacher_outputs": "live", **changes}
    config: Config = train_stage(folder, **facts).config
    return config


def check(folder: Path, *teachers: Any, **changes: Any) -> TrainDecisions:
    earlier = changes.pop("earlier", {})
    return _training_plan.plan_training(config_of(folder, *teachers, **changes), ScalingConfig(), earlier)


def test_teachers_that_know_all_classes_together_are_taken_and_the_student_has_the_corpuss_order(
    folder: Path, joining: None
) -> None:
    forecast = check(folder, "warm", "cold")
    assert forecast.makes.configs[""].id2label == dict(enumerate(CLASSES))
    assert "delivers the last student; no labels are read to train or to choose it" in forecast.lines
    assert [one.labels for one in forecast.teachers] == [("red", "green"), ("green", "blue")]


def test_a_method_is_asked_about_teachers_with_the_classes_that_are_read_of_them(
    folder: Path, joining: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(kd.Method, "check", classmethod(lambda cls, *given: seen.extend(given[2])))
    check(folder, {"checkpoint": "odd", "labels": {"grey": "green"}}, "cold")
    assert [one.id2label for one in seen] == [{0: "red", 1: "green"}, {0: "green", 1: "blue"}]


@pytest.mark.parametrize(
    ("teachers", "message"),
    [
        (
            ["warm"],
            "no teacher covers 'blue' of the corpus; add a teacher for it, name its output in labels",
        ),
        ([{"checkpoint": "all", "labels": {"green": None}}], "no teacher covers 'green'"),
        (
            ["warm", "odd"],
            r"teachers\.1: the checkpoint has the classes grey, which the corpus lacks; it has red, green",
        ),
        (
            ["warm", {"checkpoint": "odd", "labels": {"black": "blue"}}],
            r"teachers\.1: labels maps 'black', which is not a class",
        ),
        (
            ["warm", {"checkpoint": "odd", "labels": {"grey": "red"}}],
            r"teachers\.1: two outputs of the checkpoint stand",
        ),
        (
            ["warm", {"checkpoint": "odd", "labels": {"grey": "black"}}],
            r"teachers\.1: .* black, which the corpus lacks",
        ),
        (
            ["warm", {"checkpoint": "odd", "labels": {"grey": None}}],
            r"teachers\.1: the checkpoint has the class red only",
        ),
        (
            ["warm", {"checkpoint": "odd", "labels": ["x", "y"]}],
            r"teachers\.1: the checkpoint has the classes x, y, .*none",
        ),
        (
            ["warm", {"checkpoint": "cold", "head": "new"}],
            r"teachers\.1\.head is 'new', but method kd learns only from its",
        ),
        (["warm", "nowhere"], r"teachers\.1: .*nowhere', which is neither an earlier stage nor a folder"),
    ],
)
def test_wrong_maps_and_classes_that_nobody_teaches_are_refused_in_one_line(
    folder: Path, joining: None, teachers: list[Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        check(folder, *teachers)
    assert "\n" not in str(error.value)


def test_a_map_gives_outputs_the_corpuss_names_or_leaves_them_out(folder: Path, joining: None) -> None:
    assert check(folder, "warm", {"checkpoint": "odd", "labels": {"grey": "blue"}}).makes
    assert check(folder, "warm", {"checkpoint": "all", "labels": {"green": None}}).makes


def test_a_method_that_needs_all_classes_of_each_teacher_refuses_a_part(folder: Path) -> None:
    assert check(folder, "all").makes
    with pytest.raises(
        ValueError, match=r"teachers\.0: the checkpoint has the classes green, red, but the corpus has red, green"
    ):
        check(folder, "warm")
    subset = [{"corpus": str(folder / "corpus"), "label_subset": ["green", "red"]}]
    forecast = check(folder, "warm", corpus=subset)
    assert forecast.makes.configs[""].id2label == {0: "red", 1: "green"}
    with pytest.raises(
        ValueError, match=r"teachers\.0: the checkpoint has the classes blue, green, red, but the corpus has red"
    ):
        check(folder, "all", corpus=subset)
    assert check(folder, {"checkpoint": "all", "labels": {"blue": None}}, corpus=subset).makes


def test_a_class_that_nobody_teaches_can_be_left_out_of_the_corpus(folder: Path, joining: None) -> None:
    subset = [{"corpus": str(folder / "corpus"), "label_subset": ["green", "red"]}]
    assert check(folder, "warm", corpus=subset).makes


def test_the_student_takes_the_blocks_of_a_teacher_of_a_part_and_a_head_of_all_classes(
    folder: Path, joining: None, tmp_path: Path
) -> None:
    stage = train_stage(folder, teachers=[str(folder / "warm"), str(folder / "cold")], teacher_outputs="live")
    corpus = Corpus.open(str(folder / "corpus" / "train"))
    _student.write_initial(stage.config, tmp_path / "initial", folder / "warm", corpus, seed=5)
    student = load_model(tmp_path / "initial", head=HEAD, labels=CLASSES)
    teacher = load_model(folder / "warm", head=HEAD)
    of_student, of_teacher = (model.get_submodule("bert.encoder.layer") for model in (student, teacher))
    assert torch.equal(of_student[1].output.dense.weight, of_teacher[2].output.dense.weight)
    assert student.config.id2label == dict(enumerate(CLASSES))


def test_stored_logits_of_a_teacher_of_a_part_are_of_its_classes_in_the_corpuss_order(
    folder: Path, tmp_path: Path
) -> None:
    stage = capture_stage(folder, teachers=[str(folder / "all"), str(folder / "cold")])
    decisions = stage.plan(ScalingConfig(), {})
    assert isinstance(decisions.makes, OutputsFacts)
    assert decisions.makes.labels == (CLASSES, ("green", "blue"))
    run = run_of(stage, 1, context_of(stage, tmp_path))
    assert run.headers[0].labels == ("green", "blue")
    found = TeacherOutputs(run)
    said = found.of(0, np.arange(7))["logits"]
    assert said.shape == (7, 2)
    plain = load_model(folder / "cold", head=HEAD)
    batch = found._builders[0].batch(np.arange(7), epoch=0, step=0)
    with torch.no_grad():
        expected = predict(plain, batch, head=HEAD).logits[:, [1, 0]]
    np.testing.assert_allclose(said, expected.numpy(), atol=1e-5)


def test_a_capture_takes_maps_and_keeps_what_they_say(folder: Path, tmp_path: Path) -> None:
    odd = {"checkpoint": str(folder / "odd"), "labels": {"grey": "blue"}}
    stage = capture_stage(folder, teachers=[odd])
    decisions = stage.plan(ScalingConfig(), {})
    outputs = decisions.makes
    assert isinstance(outputs, OutputsFacts)
    assert (outputs.labels, outputs.names) == ((("red", "blue"),), (("red", "blue"),))
    run = run_of(stage, 0, context_of(stage, tmp_path))
    assert (run.names, run.headers[0].names) == (("red", "blue"), ("red", "blue"))
    with pytest.raises(ValueError, match=r"teachers\.0: the checkpoint has the classes grey, which the corpus lacks"):
        capture_stage(folder, teachers=[str(folder / "odd")]).plan(ScalingConfig(), {})


CORPUS = CorpusFacts("classification", 61, 40, rows=90, labels=CLASSES, columns={"label": Column("int64")})


def captured(folder: Path, **labels: tuple[str, ...]) -> dict[str, Input]:
    """A capture of these teachers with these classes, in the same job."""
    names = tuple(str(folder / name) for name in labels)
    outputs = OutputsFacts(names, ("corpus",), ("logits",), (), tuple(labels.values()), ((),) * len(names))
    return {"corpus": Input(CORPUS), "captured": Input(outputs)}


def test_a_training_reads_stored_logits_of_parts_where_its_method_joins_them(folder: Path, joining: None) -> None:
    options = {"corpus": "corpus", "teacher_outputs": "captured"}
    parts = {"cold": ("green", "blue"), "warm": ("red", "green")}
    assert check(folder, "warm", "cold", earlier=captured(folder, **parts), **options).lines
    parts["cold"] = ("blue", "green")
    with pytest.raises(
        ValueError, match=r"logits of teachers\.1 are of different label sets: .* blue, green; the train"
    ):
        check(folder, "warm", "cold", earlier=captured(folder, **parts), **options)


def test_a_method_that_needs_all_classes_refuses_stored_logits_of_a_part(folder: Path) -> None:
    options = {"corpus": "corpus", "teacher_outputs": "captured"}
    assert check(folder, "all", earlier=captured(folder, warm=("red", "green"), all=CLASSES), **options).lines
    with pytest.raises(
        ValueError, match=r"logits of teachers\.0 are of different label sets: they have the classes red, g"
    ):
        check(folder, "all", earlier=captured(folder, all=("red", "green")), **options)


def test_the_classes_that_are_read_are_all_unless_a_method_joins_parts(folder: Path) -> None:
    assert check(folder, "all").reading.labels == (CLASSES,)
    assert check(folder, "all", method="finetune").reading.labels == ()


def test_a_loss_of_stored_logits_of_parts_is_that_of_their_teachers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_inference, "_outputs", outputs_here)
    stage = capture_stage(
        folder, teachers=[str(folder / "warm"), {"checkpoint": str(folder / "odd"), "labels": {"grey": "blue"}}]
    )
    stage.run(context_of(stage, tmp_path))
    parts = [CorpusPart(str(folder / "corpus" / "train"))]
    named: list[tuple[Path, Any]] = [(folder / "warm", ()), (folder / "odd", ("red", "blue"))]
    read = [Fitted(Model(load_config(path), path), 0, names, ()) for path, names in named]
    reading = _stored_outputs.Reading(("logits",), ((), ()), (("red", "green"), ("red", "blue")))
    found = _stored_outputs.stored_outputs(
        "x", list(_stored_outputs.sets_below(tmp_path)), reading, corpora={"train": parts}, teachers=read
    )["train"]
    assert found.labels == reading.labels
    teachers = [
        load_model(path, head=HEAD, labels=labels, names=names)
        for (path, names), labels in zip(named, reading.labels, strict=True)
    ]
    student = load_model(folder / "all", head=HEAD, labels=CLASSES)
    losses = []
    for stored, running in ((None, teachers), (found, [])):
        spec = FeedSpec.make(parts, {"name": "classification"}, {"name": "vkd"}, seed=1, stored=stored)
        batch = BatchBuilder(spec).batch(np.array([80, 3, 45]), epoch=0, step=0)
        made = vkd.Method(vkd.Config(), student, running, teacher_labels=found.labels).eval()
        losses.append(made(batch, made.denominators(batch))[0])
    assert losses[0] > 0.01
    torch.testing.assert_close(losses[1], losses[0], atol=1e-6, rtol=0)
    wrong = replace(reading, labels=(("red", "green"), ("green", "blue")))
    with pytest.raises(
        ValueError, match=r"logits of teachers\.1 are of different label sets: .* red, blue; the training"
    ):
        _stored_outputs.stored_outputs(
            "x", list(_stored_outputs.sets_below(tmp_path)), wrong, corpora={}, teachers=read
        )
