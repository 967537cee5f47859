"""What a training logged, step by step, in a file beside its student: one JSON object a line."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raydistill.atomic import write_text
from raydistill.data.storages import storage_at

HISTORY = "history.jsonl"


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The lines of a training's output folder in order, each with ``step``: of logging steps and of evaluations.

    Fetched first where the training ran on another machine. A line that a crash left half-written at the end is none,
    and without a file there are none.
    """
    path = storage_at(folder / HISTORY).fetch()
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def append_history(folder: Path, step: int, metrics: Mapping[str, float]) -> None:
    """Add a line; one process may write at a time."""
    with (folder / HISTORY).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, **metrics}) + "\n")


def cut_history(folder: Path, step: int) -> None:
    """Leave out what lies beyond ``step``, and a half-written line, in one rename; -1 leaves nothing."""
    kept = [line for line in read_history(folder) if line["step"] <= step]
    write_text(folder / HISTORY, "".join(json.dumps(line) + "\n" for line in kept))
