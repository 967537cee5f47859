"""What a training leaves for the driver: a small file, since Ray Train returns metrics only with checkpoints."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from raydistill.atomic import write_json
from raydistill.data.storages import storage_at
from raydistill.store_paths import here

_FILE = "training.json"


@dataclass(frozen=True)
class TrainResult:
    """What a training left."""

    student: str
    """Folder of the trained student."""
    metrics: dict[str, float]
    """Latest value of every metric; for a best student, its own where evaluations are concerned."""
    step: int = 0
    """Optimizer steps taken."""
    stopped: str = ""
    """Why training ended before its schedule, empty if it did not."""
    delivered: Literal["last", "best"] = "last"
    """Which student it is."""
    best_metric: str = ""
    """Name of the metric that chooses the best student, as it is logged."""
    best_value: float | None = None
    best_step: int | None = None
    best: str = ""
    """Folder of the best student while it trained, empty when none was kept."""
    further: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Metric, value and step of each further best student by its name."""
    note: str = ""
    """What a user should know of the student, empty when there is nothing."""

    def write(self, folder: Path) -> None:
        """Store the result in a training's output folder, in one rename."""
        write_json(folder / _FILE, asdict(self))
        storage_at(folder / _FILE).publish()

    @classmethod
    def read(cls, folder: Path) -> "TrainResult":
        """The stored result, its folders as they are called on this machine."""
        found = cls(**json.loads(storage_at(folder / _FILE).fetch().read_text(encoding="utf-8")))
        return replace(found, student=str(here(found.student)), best=str(here(found.best)) if found.best else "")
