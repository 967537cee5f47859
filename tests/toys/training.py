"""A whole training small enough for tests: corpus, teacher, student and the spec that joins them."""

import json
import os
import signal
from pathlib import Path
from typing import Any

from raydistill.models.load import save_model
from raydistill.tracking.tracker import Tracker
from raydistill.training.spec import TrainSpec
from toys.checkpoint import toy_tokenizer
from toys.corpus import random_rows, write_corpus
from toys.families import toy_llama
from toys.models import toy_bert, toy_distilbert

MAPPING = {
    "interchange_variable_mappings": [
        {"teacher_variable_names": ["$L:[1:3]$H:[0:2]$[0:8]"], "student_variable_names": ["$L:0$H:[0:2]$[0:8]"]}
    ]
}
OPTIMIZER = {
    "learning_rate": 0.02,
    "betas": [0.9, 0.98],
    "epsilon": 1e-6,
    "warmup_proportion": 0.05,
    "max_grad_norm": 5.0,
}
"""The published causal recipe's with a rate that moves a toy."""


def write_inputs(folder: Path) -> None:
    """Corpora of 90 and 20 rows, a 4-block BERT teacher and a 2-block DistilBERT student in float32."""
    import torch

    write_corpus(folder / "train", random_rows(90))
    write_corpus(folder / "validation", random_rows(20, seed=1))
    save_model(toy_bert(4, dtype=torch.float32), toy_tokenizer(), folder / "teacher")
    save_model(toy_distilbert(2, dtype=torch.float32), toy_tokenizer(), folder / "student")


def write_more_models(folder: Path) -> None:
    """Beside the inputs, ``deep``: 12 BERT blocks to 6, and ``llama``: 3 blocks to 2, in float32."""
    import torch

    models = {
        "deep-teacher": toy_bert(12, dtype=torch.float32),
        "deep-student": toy_distilbert(6, dtype=torch.float32),
        "llama-teacher": toy_llama(3, dtype=torch.float32),
        "llama-student": toy_llama(2, seed=5, dtype=torch.float32),
    }
    for name, model in models.items():
        save_model(model, toy_tokenizer(), folder / name)


def make_spec(
    folder: Path, *, placement: str = "replicate", num_workers: int = 1, models: str = "", **sections: Any
) -> TrainSpec:
    """Causal distillation of the inputs in ``folder``; ``sections`` override keys of sections.

    ``models`` is how the names of teacher and student in ``folder`` begin.
    """
    training = {
        "max_steps": 10,
        "batch_size": 11,
        "micro_batch_size": 3,
        "dropout": 0.0,
        "logging_steps": 1,
        "eval_steps": 1000,
        "save_steps": 1000,
        "precision": "fp32",
        **sections.get("training", {}),
    }
    return TrainSpec.model_validate(
        {
            "name": "toy",
            "corpus": str(folder / "train"),
            "validation": str(folder / "validation"),
            "student": str(folder / f"{models}student"),
            "freeze_position_embeddings": True,
            "teachers": [{"folder": str(folder / f"{models}teacher"), "placement": placement}],
            "task": {"name": "mlm", **sections.get("task", {})},
            "method": {"name": "causal", "mapping": MAPPING, "alpha_mse": 0.01, **sections.get("method", {})},
            "training": training,
            "optimizer": {**OPTIMIZER, "warmup_proportion": 0.2, **sections.get("optimizer", {})},
            "scaling": {"num_workers": num_workers, **sections.get("scaling", {})},
            "seed": 7,
        }
    )


class FileTracker(Tracker):
    """Appends the metrics of each step to a file, and kills its process once at each step in ``crashes``."""

    def __init__(self, path: Path, *, crashes: tuple[int, ...] = ()) -> None:
        self.path = path
        self.crashes = crashes

    def _send(self, record: dict[str, Any]) -> Any:
        if record["op"] != "log_metrics" or "train/loss" not in record["metrics"]:
            return None
        step = record["step"]
        marker = self.path.with_suffix(f".crashed-{step}")
        if step in self.crashes and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **record["metrics"]}) + "\n")
        return None

    def steps(self) -> list[dict[str, float]]:
        """What was recorded, in order of arrival."""
        return [json.loads(text) for text in self.path.read_text(encoding="utf-8").splitlines()]
