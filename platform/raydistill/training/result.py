"""What a training leaves for the driver: a small file, since Ray Train returns metrics only with checkpoints."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

_FILE = "training.json"


@dataclass(frozen=True)
class TrainResult:
    """Folder of the trained student, the latest value of every metric, and why the training failed, if it did."""

    student: str
    metrics: dict[str, float]
    failure: str = ""

    def write(self, folder: Path) -> None:
        """Store the result in a training's output folder, in one rename."""
        temporary = folder / f".{_FILE}.{os.getpid()}"
        temporary.write_text(json.dumps(asdict(self)), encoding="utf-8")
        temporary.replace(folder / _FILE)

    @classmethod
    def read(cls, folder: Path) -> "TrainResult":
        """The stored result."""
        return cls(**json.loads((folder / _FILE).read_text(encoding="utf-8")))
