"""A student's layer plan, from its key to what is registered."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, GPT2Config

from raydistill.config.sections import ScalingConfig, StudentConfig
from raydistill.models import layer_plan
from raydistill.models.load import save_model
from raydistill.models.predictions import predict
from raydistill.stages import _student
from raydistill.stages._base import Run, StageContext
from raydistill.stages.register import Config, Stage
from toys.checkpoint import toy_tokenizer
from toys.classifiers import CLASSIFIERS, toy_labelled_batch, toy_shared_classifier
from toys.tracker import MemoryTracker

HEAD = "sequence_classification"


def section(**options: Any) -> StudentConfig:
    return StudentConfig.model_validate({"layers": [0, 1, 2], **options})


def test_a_named_plan_and_a_list_become_the_plan_of_the_student() -> None:
    student = BertConfig(num_hidden_layers=3)
    found = _student.with_plan(section(layer_plan="sps"), student, head=HEAD)
    assert layer_plan.shown(layer_plan.plan_of(found) or ()) == "0 1 2 0* 1* 2*"
    assert layer_plan.plan_of(student) is None
    found = _student.with_plan(section(layer_plan=[[2, True], [0, False]]), student, head=HEAD)
    assert layer_plan.shown(layer_plan.plan_of(found) or ()) == "2* 0"
    assert found.num_hidden_layers == 3


def test_of_six_blocks_the_key_chooses_three_or_all() -> None:
    student = BertConfig(num_hidden_layers=6)
    depths = [
        layer_plan.num_steps(_student.with_plan(section(layer_plan="sps", **options), student, head=HEAD))
        for options in ({}, {"layer_plan_half_of_six": False})
    ]
    assert depths == [9, 12]


def test_a_continued_checkpoint_keeps_its_plan_unless_another_is_asked_for() -> None:
    student = BertConfig(num_hidden_layers=2)
    layer_plan.set_plan(student, layer_plan.make_plan("sps", 2))
    kept = _student.with_plan(section(init="checkpoint", checkpoint="ptp", layers=None), student, head=HEAD)
    assert layer_plan.plan_of(kept) == layer_plan.make_plan("sps", 2)
    changed = section(init="checkpoint", checkpoint="ptp", layers=None, layer_plan="original")
    found = _student.with_plan(changed, student, head=HEAD)
    assert layer_plan.plan_of(found) == layer_plan.make_plan("original", 2)


@pytest.mark.parametrize(
    ("options", "student", "head", "message"),
    [
        ({"layer_plan": [[3, False]]}, BertConfig(num_hidden_layers=3), HEAD, "student.layer_plan has block 3"),
        ({"layer_plan": "sps"}, GPT2Config(n_layer=3), HEAD, "student.layer_plan is set, but .* gpt2"),
        ({"layer_plan": "stochastic"}, BertConfig(), "masked_lm", "student.layer_plan has drawn blocks"),
    ],
)
def test_a_plan_that_the_student_cannot_have_is_refused(
    options: dict[str, Any], student: Any, head: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _student.with_plan(section(**options), student, head=head)


@pytest.mark.parametrize("value", ["spss", [], [[0, "x"]], [[-1, True]], [0, 1]])
def test_what_is_no_plan_is_refused_when_the_file_is_read(value: Any) -> None:
    with pytest.raises(ValueError, match="layer_plan"):
        section(layer_plan=value)


def registered(folder: Path) -> dict[str, Any]:
    tracker = MemoryTracker()
    (folder / "register").mkdir(exist_ok=True)
    tracker.start_run("toy/register")
    context = StageContext(
        job_name="toy",
        seed=1,
        scaling=ScalingConfig(),
        output=folder / "register",
        tracker=tracker,
        run_key="toy/register",
        runs={"distill": [Run("distill", {}, folder, {"lineage": {"teacher": "t"}})]},
    )
    stage = Stage("register", Config.model_validate({"kind": "register", "model": "distill", "name": "s"}))
    stage.run(context)
    stage.run(context)
    return dict(tracker.models[-1])


def test_a_student_with_a_plan_is_registered_as_a_plain_model_of_equal_logits(tmp_path: Path) -> None:
    student: Any = toy_shared_classifier(2, dtype=torch.float32).eval()
    save_model(student, toy_tokenizer(), tmp_path / "student")
    model = registered(tmp_path)
    assert model["folder"] == str(tmp_path / "register" / "unrolled")
    assert model["tags"]["layer_plan"] == "0 1 0* 1*"
    batch = toy_labelled_batch("classes")
    plain = AutoModelForSequenceClassification.from_pretrained(model["folder"])
    logits = plain(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"].long()).logits
    torch.testing.assert_close(logits, predict(student, batch, head=HEAD).logits, atol=1e-6, rtol=0)
    assert (Path(model["folder"]) / "tokenizer.json").is_file()


def test_a_student_without_a_plan_is_registered_as_it_is(tmp_path: Path) -> None:
    save_model(CLASSIFIERS["bert_classes"](1, dtype=torch.float32), toy_tokenizer(), tmp_path / "student")
    model = registered(tmp_path)
    assert model["folder"] == str(tmp_path / "student")
    assert "layer_plan" not in model["tags"]


def test_the_forecast_tells_the_plan_and_how_it_leaves_the_system() -> None:
    found = _student.with_plan(section(layer_plan="sps"), BertConfig(num_hidden_layers=3), head=HEAD)
    [line] = _student.plan_lines(found)
    assert "runs 6 blocks with the weights of 3: 0 1 2 0* 1* 2*" in line
    assert _student.plan_lines(BertConfig()) == []
