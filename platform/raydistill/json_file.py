"""JSON files that are replaced in one step."""

import json
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Any, *, indent: int | None = None) -> None:
    """Replace a file in one step, so that a reader sees the old or the new content."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=indent), encoding="utf-8")
    temporary.replace(path)
