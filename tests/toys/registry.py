"""Registered students, good and bad ones, for tests of what reads a registry."""

from pathlib import Path
from typing import Any

from raydistill.registry.card import model_card
from raydistill.registry.gate import GateConfig, gate_tag
from raydistill.registry.student import FiguresRow, figures_tag
from raydistill.tracking.writer import MlflowWriter
from toys.checkpoint import save_student

KEY = "job/register"
GATE = GateConfig(metric="accuracy", greater_is_better=True, within_of_teacher=0.1)


def tags_of(accuracy: float) -> dict[str, str]:
    """What a version carries whose student has this accuracy and its teacher 0.9."""
    rows = [FiguresRow("student", "kd", {"accuracy": accuracy}), FiguresRow("teacher", "large", {"accuracy": 0.9})]
    known = {"method": "kd", "teacher": "large", "job": "toy", "license": "Apache-2.0", "gate": gate_tag(GATE)}
    return {**known, "compared_by": '{"metric": "accuracy", "greater_is_better": true}', **figures_tag(rows)}


def register_versions(writer: MlflowWriter, root: Path) -> None:
    """``student``: 1 as older releases made it, 2 good, 3 worse, 4 far from its teacher; folders in ``root``."""
    start = {"op": "start_run", "key": KEY, "time": 1, "name": KEY, "parent": None, "tags": {"campaign": "search-1"}}
    writer.deliver({**start, "resume": False, "token": KEY})
    found: list[dict[str, Any]] = [{}, tags_of(0.88), tags_of(0.85), {**tags_of(0.7), "campaign": "search-2"}]
    for seed, tags in enumerate(found, start=1):
        folder = save_student(root / f"seed{seed}", seed=seed)
        record = {"op": "register_model", "key": KEY, "time": 5, "folder": str(folder), "name": "student"}
        record |= {"alias": "candidate", "tags": tags, "metrics": {"accuracy": 0.5 + seed / 8}, "task": None}
        # As a record of an older release, the first has no card.
        writer.deliver(record if seed == 1 else {**record, "card": model_card("student", tags, folder)})
