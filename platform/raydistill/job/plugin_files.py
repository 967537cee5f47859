"""The plug-ins that a job names: files, which its data then holds as text, and modules that are installed."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raydistill import discovery, plugins
from raydistill.user_error import UserError, placed

KEY = "plugins"


def with_texts(raw: Mapping[str, Any], *, folder: Path = Path()) -> dict[str, Any]:
    """A copy of a job's plain data in which plug-ins that are files have their content; paths start at ``folder``.

    Raises UserError for one that cannot be read.
    """
    entries = raw.get(KEY)
    if not isinstance(entries, list):
        return dict(raw)
    return {**raw, KEY: [_with_text(entry, number, folder) for number, entry in enumerate(entries)]}


def use_plugins(raw: Mapping[str, Any]) -> None:
    """Know the plug-ins of a job's plain data, and no other job's; raises UserError for one that does not work."""
    found, entries = [], raw.get(KEY) or []
    for number, entry in enumerate(entries if isinstance(entries, list) else []):
        with placed(f"{KEY}.{number}"):
            if isinstance(entry, Mapping) and {*entry} == {"file", "text"}:
                found.append(plugins.of_file(str(entry["file"]), str(entry["text"])))
            elif isinstance(entry, str):
                found.append(plugins.of_module(entry))
    with placed(KEY):
        discovery.use(found)


def _with_text(entry: Any, number: int, folder: Path) -> Any:
    if not isinstance(entry, str) or not entry.endswith(".py"):
        return entry
    path = folder / os.path.expanduser(entry)
    try:
        return {"file": entry, "text": path.read_text(encoding="utf-8")}
    except OSError as error:
        raise UserError(f"{KEY}.{number} is {entry!r}; {path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{KEY}.{number} is {entry!r}, which is not UTF-8 text; give a Python file") from None
