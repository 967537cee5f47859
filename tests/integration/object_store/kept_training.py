"""A training in this process, interrupted and gone on with from a bucket by a machine with an empty disk.

Arguments: a folder with the inputs, and the URI of the output. Printed are the losses by step, as JSON.
"""

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from raydistill.data.storages import storage_at
from raydistill.store_paths import local_path
from raydistill.tracking.tracker import NullTracker
from raydistill.training.history import read_history
from raydistill.training.in_process import train_here
from toys.training import make_spec


def interrupt(step: int, metrics: Mapping[str, float], save_state: Any) -> None:
    """Ends the training at an evaluation."""
    if step == 6:
        raise SystemExit


def main(folder: str, uri: str) -> None:
    """Train once in one go, and once with an interruption after the second of four checkpoints."""
    training = {"max_steps": 10, "eval_steps": 2, "save_steps": 2, "load_best_model_at_end": True}
    spec = make_spec(Path(folder), training={**training, "save_total_limit": 2})
    whole = Path(folder) / "whole"
    whole.mkdir()
    train_here(spec, str(whole), NullTracker(), "toy")
    with suppress(SystemExit):
        train_here(spec, str(local_path(uri)), NullTracker(), "toy", callback=interrupt)
    left = [path.name for path in storage_at(local_path(uri) / "checkpoints").subfolders()]
    os.environ["RAYDISTILL_CACHE"] = f"{folder}/other-cache"
    result = train_here(spec, str(local_path(uri)), NullTracker(), "toy")
    kept = [path.name for path in storage_at(local_path(uri) / "checkpoints").subfolders()]
    histories = [
        {line["step"]: line["train/loss"] for line in read_history(output) if "train/loss" in line}
        for output in (whole, local_path(uri))
    ]
    print(json.dumps({"left": left, "kept": kept, "histories": histories, "student": result.student}))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
