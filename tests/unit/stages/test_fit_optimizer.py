"""Optimizers, stops and frozen blocks that do not fit a training are refused, or told, before anything runs."""

from pathlib import Path
from typing import Any

import pytest

from raydistill.config.sections import LoraConfig, ScalingConfig
from raydistill.methods import finetune
from raydistill.methods._base import Requirements
from raydistill.models import compiling
from raydistill.stages import _memory, _training_plan, train
from raydistill.stages._base import CorpusFacts, Input
from toys.models import toy_bert
from toys.words import make_tokenizer

CORPUS = {"corpus": Input(CorpusFacts("mlm", 61, 40, rows=80, tokens=800))}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder: Path = tmp_path_factory.mktemp("teacher")
    toy_bert(4).float().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


def lines(
    teacher: str, *, training: dict[str, Any] | None = None, student: dict[str, Any] | None = None, **sections: Any
) -> list[str]:
    stage = {
        "kind": "train",
        "corpus": "corpus",
        "task": "mlm",
        "method": "finetune",
        "student": {"checkpoint": teacher, "layers": [0, 2], "architecture": "bert", **(student or {})},
        "training": {"batch_size": 8, "num_epochs": 10, **(training or {})},
        **sections,
    }
    return _training_plan.plan_training(train.Config.model_validate(stage), ScalingConfig(), CORPUS).lines


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_an_optimizer_that_clips_whole_tensors_is_refused_where_they_are_sharded(teacher: str, stage: int) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        lines(teacher, optimizer={"name": "bert_adam"}, training={"zero_stage": stage})
    assert str(caught.value) == (
        "optimizer.name is 'bert_adam', which clips the gradient of each whole tensor, but training.zero_stage is "
        f"{stage}; set zero_stage to 0, or choose adamw or adamw_hf4"
    )


@pytest.mark.parametrize(("name", "stage"), [("bert_adam", 0), ("adamw_hf4", 3), ("adamw", 3)])
def test_other_optimizers_and_whole_tensors_go_together(teacher: str, name: str, stage: int) -> None:
    assert lines(teacher, optimizer={"name": name}, training={"zero_stage": stage})


def test_a_frozen_block_beyond_the_students_depth_is_refused(teacher: str) -> None:
    assert lines(teacher, student={"freeze_layers": [0, 1]})
    with pytest.raises(ValueError, match=r"^student\.freeze_layers has 2; the student has blocks 0 to 1, "):
        lines(teacher, student={"freeze_layers": [0, 2]})


def test_blocks_are_counted_by_their_weights_where_a_layer_plan_runs_them_more_than_once(teacher: str) -> None:
    plan = [[0, False], [1, False], [0, True], [1, True]]
    assert lines(teacher, student={"layer_plan": plan, "freeze_layers": [1]})
    with pytest.raises(ValueError, match=r"^student\.freeze_layers has 3; the student has blocks 0 to 1, "):
        lines(teacher, student={"layer_plan": plan, "freeze_layers": [3]})


def test_the_forecast_tells_after_which_epochs_training_stops(teacher: str) -> None:
    assert lines(teacher, training={"stop_after_epochs": 7})[-1].endswith(", stops after 7 of 10 epochs")
    assert "stops" not in lines(teacher)[-1]


def test_the_forecast_tells_what_gradient_checkpointing_keeps(teacher: str) -> None:
    [line] = [line for line in lines(teacher, training={"gradient_checkpointing": True}) if "checkpointing" in line]
    assert line == (
        "gradient_checkpointing: the student's 2 blocks keep their inputs alone, at most 0.00 GiB for a pass over 8 "
        "rows of 40 tokens, and what one block computes"
    )
    assert not any("checkpointing" in line for line in lines(teacher))


def test_the_forecast_counts_what_adapters_train_and_the_memory_that_they_save(teacher: str) -> None:
    pytest.importorskip("peft")
    start = {"checkpoint": teacher, "init": "checkpoint", "layers": None, "architecture": None}
    config = train.Config.model_validate(
        {"kind": "train", "corpus": "corpus", "task": "mlm", "method": "finetune", "student": start}
    )
    adapted = config.model_copy(update={"student": config.student.model_copy(update={"lora": LoraConfig(r=2)})})
    student = toy_bert(4).config
    size, trained = _memory.checks.num_parameters(student, head="masked_lm"), _memory.num_trained(adapted, student)
    assert trained is not None
    whole, part = (_memory.student_bytes(one, student, 2, value_bytes=2) for one in (config, adapted))
    assert (whole, part) == (16 * size, 2 * size + 16 * trained)
    [line] = [line for line in lines(teacher, student={**start, "lora": {"r": 2}}) if line.startswith("student bert")]
    assert line == f"student bert, {size:,} parameters, of which {trained:,} in adapters and beside them are trained"


def test_adapters_and_a_method_that_takes_heads_away_are_refused(teacher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    monkeypatch.setattr(
        finetune.Method, "requirements", classmethod(lambda cls, config: Requirements(needs=("units",)))
    )
    start = {"checkpoint": teacher, "init": "checkpoint", "layers": None, "architecture": None}
    assert lines(teacher, student=start)
    with pytest.raises(ValueError, match=r"^student\.lora is given, but method finetune removes heads and neurons"):
        lines(teacher, student={**start, "lora": {}})


def test_adapters_on_names_that_the_student_lacks_and_on_drawn_weights_are_refused(teacher: str) -> None:
    with pytest.raises(
        ValueError, match=r"^student\.lora\.target_modules is 'q_proj'; .*Choices: dense, key, query, value"
    ):
        lines(teacher, student={"lora": {"target_modules": ["q_proj"]}})
    with pytest.raises(ValueError, match="lora is given, but init is 'random'"):
        lines(teacher, student={"init": "random", "num_layers": 2, "layers": None, "lora": {}})


def test_blocks_are_compiled_where_their_weights_are_whole_and_something_compiles_them(
    teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "missing_compiler", lambda *, use_gpu: None)
    assert lines(teacher, training={"compile_blocks": True, "zero_stage": 2})
    with pytest.raises(
        ValueError, match=r"^training\.compile_blocks is true, but zero_stage is 3, which gathers weights"
    ):
        lines(teacher, training={"compile_blocks": True, "zero_stage": 3})
    monkeypatch.setattr(compiling, "missing_compiler", lambda *, use_gpu: "the compiler g++")
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        lines(teacher, training={"compile_blocks": True})
    assert str(caught.value) == (
        "training.compile_blocks is true, but this machine lacks the compiler g++, which makes kernels of them; set it "
        "to false"
    )
    assert lines(teacher)


def test_a_student_that_is_compiled_has_the_hash_of_one_that_is_not(teacher: str) -> None:
    stage = {
        "kind": "train",
        "corpus": "corpus",
        "task": "mlm",
        "method": "finetune",
        "student": {"checkpoint": teacher, "layers": [0, 2], "architecture": "bert"},
    }
    found = [
        train.Stage("student", train.Config.model_validate({**stage, "training": training})).identity(ScalingConfig())
        for training in ({}, {"compile_blocks": True}, {"batch_size": 9})
    ]
    assert found[0] == found[1] != found[2]
    assert "compile_blocks" not in train.Config.model_validate(stage).training.model_dump()
