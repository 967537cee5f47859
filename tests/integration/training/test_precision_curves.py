"""A training in bf16, whose optimizer steps float32 weights, against one in float32: the same loss curve."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from integration.training.engine_settings import losses_of
from raydistill.config.named import MethodSpec
from raydistill.training.engine import Engine
from reference.curves import distance, spread
from toys.training import make_spec, write_inputs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_rank")]

STEPS, SEEDS, RATE = 200, (7, 8, 9), 5e-4


def losses(
    folder: Path, *, seed: int, precision: str, num_steps: int = STEPS, zero_stage: int = 0, **options: Any
) -> list[float]:
    """Of each step of a training of the toy student by its task alone."""
    training = {
        "precision": precision,
        "max_steps": num_steps,
        "batch_size": 16,
        "micro_batch_size": 16,
        "zero_stage": zero_stage,
    }
    spec = make_spec(folder, training=training).model_copy(
        update={"seed": seed, "teachers": [], "method": MethodSpec.parse("finetune")}
    )
    return losses_of(spec, num_steps=num_steps, learning_rate=RATE, **options)


@torch.no_grad()
def round_weights(engine: Engine) -> None:
    """What the optimizer steps as bf16 would hold it."""
    for share in engine._masters._shares.values():
        share.holder.copy_(share.holder.bfloat16())


def test_bf16_learns_as_fp32_does_up_to_the_spread_of_seeds(tmp_path):
    write_inputs(tmp_path)
    fp32 = np.array([losses(tmp_path, seed=seed, precision="fp32") for seed in SEEDS])
    assert fp32[0, -20:].mean() < 0.95 * fp32[0, :20].mean(), "it does not learn"
    bf16 = losses(tmp_path, seed=SEEDS[0], precision="bf16")
    assert distance(bf16, fp32[0]) < spread(fp32)
    # Weights in bf16 alone lose most steps to rounding.
    rounded = losses(tmp_path, seed=SEEDS[0], precision="bf16", after_step=round_weights)
    assert distance(rounded, fp32[0]) > spread(fp32)


@pytest.mark.parametrize(("precision", "of_stage_3"), [("fp32", 1e-6), ("bf16", 1e-2)])
def test_stages_that_share_out_no_weight_train_bit_for_bit_the_same(tmp_path, precision, of_stage_3):
    write_inputs(tmp_path)
    found = [
        np.array(losses(tmp_path, seed=SEEDS[0], precision=precision, num_steps=12, zero_stage=stage))
        for stage in range(4)
    ]
    assert (found[1] == found[0]).all()
    assert (found[2] == found[0]).all()
    # Its linear layers add up gradients in another order.
    assert np.abs(found[3] - found[0]).max() < of_stage_3
