"""Half precision rounds what a model computes with, not the weights that the optimizer steps and the student is of."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from integration.training.engine_settings import batches_alone
from raydistill.config.named import MethodSpec
from raydistill.training.assembly import build_engine
from raydistill.training.engine import Engine
from raydistill.training.spec import TrainSpec
from toys.training import make_spec, write_inputs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_rank")]

EMBEDDINGS = "distilbert.embeddings."


def engine_and_spec(folder: Path, **training: Any) -> tuple[Engine, TrainSpec]:
    write_inputs(folder)
    spec = make_spec(folder, training=training).model_copy(
        update={"teachers": [], "method": MethodSpec.parse("finetune"), "freeze_embeddings": True}
    )
    return build_engine(spec, num_workers=1, device=torch.device("cpu")), spec


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "student" / "model.safetensors")


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_a_student_before_its_first_step_is_the_one_in_its_file(tmp_path, zero_stage):
    engine, _ = engine_and_spec(tmp_path, precision="bf16", zero_stage=zero_stage)
    found = engine.student_state()
    engine.close()
    for name, weight in stored(tmp_path).items():
        assert torch.equal(found[name], weight), name


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_weights_that_do_not_train_stay_to_the_last_bit_and_others_step_from_theirs(tmp_path, zero_stage):
    engine, spec = engine_and_spec(tmp_path, precision="bf16", zero_stage=zero_stage)
    (batches,) = batches_alone(spec, num_steps=1)
    counts = [engine.distiller.denominators(batch) for batch in batches]
    totals = {name: torch.stack([count[name] for count in counts]).sum() for name in counts[0]}
    rate = 1e-6
    engine.step(batches, [totals] * len(batches), learning_rate=rate)
    found = engine.student_state()
    engine.close()
    for name, weight in stored(tmp_path).items():
        moved = (found[name] - weight).abs().max()
        # The projection of masked language models is the embeddings'.
        if name.startswith(EMBEDDINGS) or name == "vocab_projector.weight":
            assert moved == 0, name
        else:
            # A first step of Adam is as long as the rate; rounding to bf16 would move a weight of 0.1 by 2e-4.
            assert moved < 2 * rate, name
