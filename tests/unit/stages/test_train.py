"""What a training stage decides before its training starts."""

from pathlib import Path
from typing import Any

import pytest

from raydistill.models.load import save_model
from raydistill.stages.train import Config, Stage
from toy_checkpoint import toy_tokenizer
from toy_models import toy_bert, toy_distilbert


def stage(**student: Any) -> Stage:
    config = {"kind": "train", "corpus": "corpus", "method": "finetune", "student": {"layers": [0], **student}}
    return Stage("train", Config.model_validate(config))


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
    assert stage(**options)._freezes_positions(tmp_path / "initial") is frozen
