"""Two corpora of different texts and two causal teachers, and trainings of a student from both."""

from pathlib import Path
from typing import Any

import torch

from raydistill.models.load import load_tokenizer, save_model
from raydistill.stages import train
from raydistill.training.history import read_history
from raydistill.training.in_process import train_here
from toys.capture import context_of, train_stage, write_texts
from toys.families import toy_gpt2
from toys.models import VOCABULARY

MIXED = {"teacher_weights": [1, 3]}


def write_two(folder: Path) -> None:
    """``plays`` and ``code``, each with ``corpus`` and ``teacher``."""
    for number, name in enumerate(("plays", "code")):
        write_texts(folder / name, toy_gpt2, "clm", seed=10 * number)
        teacher = toy_gpt2(3 - number, seed=20 + number, dtype=torch.float32).eval()
        save_model(teacher, load_tokenizer(folder / name / "tokenizer"), folder / name / "teacher")


def corpora_of(folder: Path) -> list[str]:
    return [str(folder / name / "corpus") for name in ("plays", "code")]


def own_teachers(folder: Path) -> dict[str, Any]:
    """Of each corpus the other one's teacher."""
    return {"teacher_of": {corpus: 1 - number for number, corpus in enumerate(corpora_of(folder))}}


def stage_of(folder: Path, options: dict[str, Any], outputs: str = "live", **changes: Any) -> train.Stage:
    """A training of both corpora."""
    return train_stage(
        folder,
        **{
            "task": "clm",
            "corpus": corpora_of(folder),
            "teachers": [str(folder / name / "teacher") for name in ("plays", "code")],
            "method": {"name": "kd", "temperature": 1.0, "alpha": 0.8, **options},
            "teacher_outputs": outputs,
            "student": {"architecture": "gpt2", "layers": [0, 2]},
            "training": {"num_epochs": 1, "batch_size": 30, "micro_batch_size": 8},
            **changes,
        },
    )


def captured(folder: Path) -> dict[str, Any]:
    """What a capture of both teachers on both corpora is configured with."""
    return {
        "task": "clm",
        "corpus": corpora_of(folder),
        "teachers": [str(folder / name / "teacher") for name in ("plays", "code")],
        "outputs": ["top_k"],
        "top_k": VOCABULARY,
    }


def trained_here(folder: Path) -> dict[str, list[dict[str, float]]]:
    """The histories of trainings in this process, by how both teachers teach and where their outputs come from."""
    found = {}
    for name, options in {"mixed": MIXED, "own": own_teachers(folder)}.items():
        for outputs in ("live", str(folder / "capture")):
            kind = f"{name}, {'live' if outputs == 'live' else 'stored'}"
            stage = stage_of(folder, options, outputs)
            context = context_of(stage, folder / "trained" / kind)
            context = type(context)(**{**vars(context), "launch": train_here})
            stage.run(context)
            found[kind] = read_history(context.output)
    return found
