"""Half precision rounds what a model computes with, not the weights that the optimizer steps and the student is of."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from integration.training.engine_settings import losses_of
from raydistill.config.named import MethodSpec
from raydistill.training.assembly import build_engine
from raydistill.training.spec import TrainSpec
from toys.training import make_spec, write_inputs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_rank")]

EMBEDDINGS = "distilbert.embeddings."


def spec_in_bf16(folder: Path, **training: Any) -> TrainSpec:
    write_inputs(folder)
    return make_spec(folder, training={"precision": "bf16", **training}).model_copy(
        update={"teachers": [], "method": MethodSpec.parse("finetune"), "freeze_embeddings": True}
    )


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "student" / "model.safetensors")


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_a_student_before_its_first_step_is_the_one_in_its_file(tmp_path, zero_stage):
    spec = spec_in_bf16(tmp_path, zero_stage=zero_stage)
    engine = build_engine(spec, num_workers=1, device=torch.device("cpu"))
    found = engine.student_state()
    engine.close()
    for name, weight in stored(tmp_path).items():
        assert torch.equal(found[name], weight), name


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_weights_that_do_not_train_stay_to_the_last_bit_and_others_step_from_theirs(tmp_path, zero_stage):
    spec = spec_in_bf16(tmp_path, zero_stage=zero_stage)
    found: dict[str, torch.Tensor] = {}
    rate = 1e-6
    losses_of(spec, num_steps=1, learning_rate=rate, after_step=lambda engine: found.update(engine.student_state()))
    for name, weight in stored(tmp_path).items():
        moved = (found[name] - weight).abs().max()
        # The projection of masked language models is the embeddings'.
        if name.startswith(EMBEDDINGS) or name == "vocab_projector.weight":
            assert moved == 0, name
        else:
            # A first step of Adam is as long as the rate; rounding to bf16 would move a weight of 0.1 by 2e-4.
            assert moved < 2 * rate, name
