"""What a training of one worker takes beside its steps: in a process that is kept, against one that Ray Train starts.

``kept_process.seconds_first`` and ``kept_process.seconds_next``: a training of one step of toy models, whole, in a new
process and in one that has trained before. ``kept_process.ratio``: how many times as long Ray Train takes for the same.
Medians; takes about two minutes.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import ray

from raydistill.training.kept_process import KeptProcesses
from raydistill.training.trainer import train
from toys.training import FileTracker, make_spec, write_inputs

LEAST_RATIO = 5.0
REPEATS = 3


def main() -> None:
    """Print the figures."""
    os.environ.pop("RAY_ADDRESS", None)
    # Processes of the cluster import the toy models' functions.
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=300_000_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder)
        spec = make_spec(folder, training={"max_steps": 1})

        def seconds(launch: Callable[..., Any]) -> float:
            output = tempfile.mkdtemp(dir=folder)
            start = time.perf_counter()
            launch(spec, output, FileTracker(folder / "records.jsonl"), "run")
            return time.perf_counter() - start

        with KeptProcesses() as processes:
            first = seconds(processes.train)
            kept, group = zip(*((seconds(processes.train), seconds(train)) for _ in range(REPEATS)), strict=True)
    ray.shutdown()
    following = statistics.median(kept)
    ratio = statistics.median(group) / following
    for figure in (
        {"name": "kept_process.seconds_first", "value": round(first, 2), "unit": "s", "bound": None, "met": None},
        {"name": "kept_process.seconds_next", "value": round(following, 2), "unit": "s", "bound": None, "met": None},
        {
            "name": "kept_process.ratio",
            "value": round(ratio, 2),
            "unit": "times",
            "bound": LEAST_RATIO,
            "met": ratio >= LEAST_RATIO,
        },
    ):
        print(json.dumps(figure))  # noqa: T201


if __name__ == "__main__":
    main()
