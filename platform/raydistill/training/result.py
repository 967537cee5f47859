"""What a training leaves for the driver: a small file, since Ray Train returns metrics only with checkpoints."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from raydistill.json_file import write_json

_FILE = "training.json"


@dataclass(frozen=True)
class TrainResult:
    """Folder of the trained student, the latest value of every metric, and why the training failed, if it did."""

    student: str
    metrics: dict[str, float]
    failure: str = ""

    def write(self, folder: Path) -> None:
        """Store the result in a training's output folder, in one rename."""
        write_json(folder / _FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "TrainResult":
        """The stored result."""
        return cls(**json.loads((folder / _FILE).read_text(encoding="utf-8")))
