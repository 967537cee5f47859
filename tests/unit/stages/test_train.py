"""What a training stage decides before its training starts."""

from pathlib import Path
from typing import Any

import pytest

from raydistill.config.sections import ScalingConfig
from raydistill.methods import finetune
from raydistill.methods._base import Execution, Requirements
from raydistill.models.load import load_config, save_model
from raydistill.stages import _student, train
from raydistill.stages._stored_outputs import Reading
from raydistill.stages._teacher_plan import Choice
from raydistill.stages._training_plan import TrainDecisions
from raydistill.stages.train import Config, Stage
from raydistill.tasks import mlm
from toys.checkpoint import toy_tokenizer
from toys.models import toy_bert, toy_distilbert


def stage(*, training: dict[str, Any] | None = None, **student: Any) -> Stage:
    config = {"kind": "train", "corpus": "corpus", "method": "finetune", "student": {"layers": [0], **student}}
    return Stage("train", Config.model_validate({**config, "training": training or {}}))


@pytest.mark.parametrize(
    ("model", "options", "frozen"),
    [
        (toy_distilbert, {}, True),
        (toy_bert, {}, False),
        (toy_bert, {"freeze_position_embeddings": True}, True),
        (toy_distilbert, {"freeze_position_embeddings": False}, False),
        (toy_distilbert, {"init": "checkpoint", "checkpoint": "x", "layers": None}, False),
    ],
)
def test_positions_are_frozen_for_a_new_distilbert_unless_told_otherwise(
    tmp_path: Path, model: Any, options: dict[str, Any], frozen: bool
) -> None:
    save_model(model(1), toy_tokenizer(), tmp_path / "initial")
    assert _student.freezes_positions(stage(**options).config.student, load_config(tmp_path / "initial")) is frozen


def decided() -> TrainDecisions:
    return TrainDecisions(
        lines=["a line"],
        student=None,
        teachers=(),
        choice=Choice("live"),
        placement=None,
        reading=Reading(),
        row_tokens=8,
        unreached_limit="",
    )


def couple(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    if part == "method":
        coupled = Requirements(execution=Execution(batch_dependent=True))
        monkeypatch.setattr(finetune.Method, "requirements", classmethod(lambda cls, config: coupled))
    if part == "task":
        monkeypatch.setattr(mlm.Task, "batch_dependent", classmethod(lambda cls, config: True))


@pytest.mark.parametrize(("part", "counts"), [("nothing", False), ("method", True), ("task", True)])
def test_the_size_of_a_micro_batch_is_a_part_of_a_training_whose_rows_are_coupled(
    monkeypatch: pytest.MonkeyPatch, part: str, counts: bool
) -> None:
    couple(monkeypatch, part)
    monkeypatch.setattr(train, "plan_training", lambda *_: decided())
    identities, lines = [], []
    for size in (4, 8):
        of_size = stage(training={"micro_batch_size": size})
        identities.append(of_size.identity(ScalingConfig()))
        lines.append(of_size.plan(ScalingConfig(), {}).lines[1:])
    assert (identities[0] != identities[1]) is counts
    told = [
        [
            f"the size of micro-batches, {size}, and the number of workers, 1, are a part of what is learned; "
            "others make another student"
        ]
        for size in (4, 8)
    ]
    assert lines == (told if counts else [[], []])


@pytest.mark.parametrize("part", ["nothing", "method"])
def test_a_number_of_workers_that_is_learned_may_not_change(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    couple(monkeypatch, part)
    monkeypatch.setattr(train, "plan_training", lambda *_: decided())
    elastic = ScalingConfig(num_workers=2, min_workers=1)
    if part == "nothing":
        assert stage().plan(elastic, {}).lines == ["a line"]
        assert stage().identity(elastic) == stage().identity(ScalingConfig(num_workers=7))
        return
    with pytest.raises(ValueError, match=r"scaling\.min_workers is 1, but the loss of a row .*; leave min_workers out"):
        stage().plan(elastic, {})
    stage().plan(ScalingConfig(num_workers=2), {})
