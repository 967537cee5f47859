"""Loss curves of bf16, whose optimizer steps float32 weights, against float32, over 200 steps of a real model.

The student of ``kd_classifier.py``, MiniLM with 2 of its blocks, learns from MiniLM with 6 on its movie sentences in
batches of 32. ``distance`` is the mean difference of the two curves of one seed, each of means over 20 steps;
``spread`` the mean standard deviation of those of three seeds in float32, which draw other orders and other dropout.
One thread; takes about seven minutes on an idle machine with fast bf16.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.kd_classifier import BATCH, RATE, THREADS, make_spec, write_inputs
from integration.training.engine_settings import losses_of
from raydistill.computing import compute_with
from raydistill.training.engine import prepare_environment
from reference.curves import distance, spread

STEPS, SEEDS = 200, (1, 2, 3)


def main() -> None:
    """Print the figures."""
    prepare_environment(use_gpu=False)
    compute_with(THREADS)
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    with tempfile.TemporaryDirectory() as folder:
        inputs = write_inputs(Path(folder), STEPS * BATCH)

        def losses(seed: int, precision: str) -> list[float]:
            spec = make_spec(inputs, STEPS, precision, None).model_copy(update={"seed": seed})
            return losses_of(spec, num_steps=STEPS, learning_rate=RATE)

        fp32 = [losses(seed, "fp32") for seed in SEEDS]
        found, bound = distance(losses(SEEDS[0], "bf16"), fp32[0]), spread(fp32)
    figure = {"name": "precision_curves.spread", "value": round(bound, 5), "unit": "nats", "bound": None, "met": None}
    print(json.dumps(figure))  # noqa: T201
    figure = {"name": "precision_curves.distance", "value": round(found, 5), "unit": "nats", "bound": round(bound, 5)}
    print(json.dumps({**figure, "met": found <= bound}))  # noqa: T201


if __name__ == "__main__":
    main()
