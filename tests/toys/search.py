"""A search over a distillation of toy classifiers, small enough for tests; also run as a driver of its own."""

import json
import sys
from pathlib import Path
from typing import Any

from raydistill.search.campaign import run_campaign
from raydistill.search.config import SearchConfig
from toys.capture import train_stage, write_labelled
from toys.training import OPTIMIZER

STAGE = "distill"


def write_job(folder: Path) -> Path:
    """A corpus, a teacher and a job whose first stage trains the student a little that the second distils into."""
    write_labelled(folder)
    training = {"max_steps": 2, "batch_size": 23, "micro_batch_size": 12, "eval_steps": 2, "precision": "fp32"}
    start = {
        "kind": "train",
        "corpus": str(folder / "corpus"),
        "task": "classification",
        "method": "finetune",
        "student": {"init": "checkpoint", "checkpoint": str(folder / "teacher")},
        "training": training,
        # So large an epsilon keeps Adam from making steps of what rounding leaves where a gradient is zero.
        "optimizer": {**OPTIMIZER, "learning_rate": 0.001},
    }
    student = {"init": "layers", "architecture": "bert", "layers": [0, 2], "checkpoint": "start"}
    steps = {"max_steps": 8, "eval_steps": 2, "micro_batch_size": 12, "dropout": 0.1}
    distill = train_stage(folder, training=steps, student=student).config.model_dump(
        mode="json", exclude={"matrix", "seed", "scaling", "max_parallel"}
    )
    path = folder / "job.yaml"
    stages = {"start": start, STAGE: distill}
    path.write_text(json.dumps({"name": "toy", "storage": str(folder / "runs"), "stages": stages}), encoding="utf-8")
    return path


def make_search(folder: Path, **changes: Any) -> SearchConfig:
    """A search of the job in ``folder``, with temperatures and a learning rate that fails."""
    return SearchConfig.model_validate(
        {
            "name": "toy-search",
            "job": str(folder / "job.yaml"),
            "stage": STAGE,
            "space": {"method.temperature": {"uniform": [1, 4]}, "optimizer.learning_rate": [0.002, 0.02, 1e30]},
            "metric": "loss",
            "mode": "min",
            "scheduler": {"name": "asha", "grace_steps": 2, "reduction_factor": 2},
            "budget": {"trials": 6},
            "max_concurrent": 1,
            "seed": 0,
            **changes,
        }
    )


if __name__ == "__main__":
    run_campaign(make_search(Path(sys.argv[1])), resume=False, echo=print)
