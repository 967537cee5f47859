"""A training in bf16, whose optimizer steps float32 weights, against one in float32: the same loss curve."""

from pathlib import Path

import numpy as np
import pytest
import torch

from integration.training.engine_settings import direct_feed
from raydistill.config.named import MethodSpec
from raydistill.data.stream import FeedSpec
from raydistill.training.assembly import build_engine
from raydistill.training.engine import Engine
from reference.curves import distance, spread
from toys.training import make_spec, write_inputs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_rank")]

STEPS, SEEDS, RATE = 200, (7, 8, 9), 5e-4


def losses(folder: Path, *, seed: int, precision: str, rounds_weights: bool = False) -> list[float]:
    """Of each step of a training of the toy student by its task alone; the dropout of each step is of its seed."""
    spec = make_spec(
        folder,
        training={"precision": precision, "max_steps": STEPS, "batch_size": 16, "micro_batch_size": 16},
    )
    spec = spec.model_copy(update={"seed": seed, "teachers": [], "method": MethodSpec.parse("finetune")})
    feed_spec = FeedSpec.make(spec.corpus, spec.task, spec.method, seed=seed, batch_size=16)
    engine = build_engine(spec, num_workers=1, device=torch.device("cpu"))
    found = []
    for step, batches in enumerate(direct_feed(feed_spec, rank=0, world_size=1, stop_step=STEPS)):
        torch.manual_seed(1000 * seed + step)
        counts = [engine.distiller.denominators(batch) for batch in batches]
        found.append(float(engine.step(batches, counts, learning_rate=RATE)["loss"]))
        if rounds_weights:
            round_weights(engine)
    engine.close()
    return found


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
    rounded = losses(tmp_path, seed=SEEDS[0], precision="bf16", rounds_weights=True)
    assert distance(bf16, fp32[0]) < spread(fp32)
    # Weights in bf16 alone lose most steps to rounding.
    assert distance(rounded, fp32[0]) > spread(fp32)
