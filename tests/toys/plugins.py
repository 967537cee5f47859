"""Plug-ins in files, and a job that names them."""

from pathlib import Path
from typing import Any

METHOD = '''"""A method for tests."""

from dataclasses import dataclass
from typing import Any

from raydistill.methods import finetune
from raydistill.methods._base import Denominators, LossAndTerms


@dataclass(frozen=True)
class Config:
    """Options."""

    factor: float = 2.0
    """What the loss is multiplied by."""


class Method(finetune.Method):
    """The task's loss times a factor."""

    def forward(self, batch: Any, denominators: Denominators | None = None) -> LossAndTerms:
        """Scale the loss."""
        loss, terms = super().forward(batch, denominators)
        return self.config.factor * loss, terms
'''
SOURCE = '''"""Texts that are written here."""

from dataclasses import dataclass

from raydistill.data.sources._base import Item


@dataclass(frozen=True)
class Config:
    """Options."""

    count: int = 60
    """How many texts."""


def is_listed_early(config):
    """Cheap to list."""
    return True


def items(config):
    """One item."""
    return [Item("all", str(config.count))]


def read(config, item):
    """Texts of two classes."""
    for number in range(config.count):
        words = ("good fine great", "bad poor sad")[number % 2]
        yield {"text": f"{words} {words} {number}", "label": ("yes", "no")[number % 2]}
'''
METRIC = '''"""The share of rows that are said to be of class 0."""

OF = "classes"
HIGHER_IS_BETTER = False


def metric(predictions, labels):
    """Of class ids (N,) and the true ones (N,)."""
    return float((predictions == 0).mean())
'''


def write_plugins(folder: Path, **texts: str) -> None:
    """Write files ``<name>.py``."""
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")


def job_with_plugins(tokenizer: str, student: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """Plain data of a job whose source, method and metric are plug-ins: scaled, written, zeros."""
    return {
        "name": "plugged",
        "plugins": ["scaled.py", "written.py", "zeros.py"],
        "stages": {
            "data": {
                "kind": "binarize",
                "source": "written",
                "encoding": {"name": "classification", "labels": ["no", "yes"], "max_length": 16},
                "tokenizer": tokenizer,
                "validation": 0.3,
            },
            "plain": {
                "kind": "train",
                "corpus": "data",
                "task": "classification",
                "method": "finetune",
                "student": student,
                "training": {"batch_size": 8, "micro_batch_size": 4, "max_steps": 2},
            },
            "distill": {
                "kind": "train",
                "corpus": "data",
                "task": {"name": "classification", "metrics": ["zeros"]},
                "method": {"name": "scaled", "factor": 3.0},
                "student": student,
                "training": {"batch_size": 8, "micro_batch_size": 4, "max_steps": 2},
            },
        },
        **keys,
    }
