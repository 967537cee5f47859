"""JSON and text files that are replaced in one step."""

import json
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Any, *, indent: int | None = None) -> None:
    """Replace a file in one step, so that a reader sees the old or the new content."""
    write_text(path, json.dumps(value, indent=indent))


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step; one that cannot be written leaves the old content and nothing beside it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
