"""A storage that was moved or copied takes the artifacts of its own database along."""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from raydistill.tracking.store import Store, database_file
from raydistill.user_error import UserError

_PLACES = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}
"""Columns of MLflow's database, by table, that say where artifacts lie."""
_TIMEOUT_S = 60.0


def follow_storage(store: Store, location: str) -> None:
    """Point the database of a storage to its artifacts where ``location``, its experiment's, is of an older place.

    Of a database elsewhere, which other storages may share, nothing is changed: raises ValueError, with the remedy,
    where the folder of the experiment's artifacts is gone.
    """
    place, file = store.artifact_location, database_file(store.uri)
    if place is None or location == place or not location.startswith("file:"):
        return
    if file is not None and place == (file.parent / "artifacts").as_uri() and location.endswith("/artifacts"):
        _point(file, location, place)
    elif not Path(unquote(urlsplit(location).path)).is_dir():
        raise UserError(
            f"tracking.experiment {store.experiment!r} keeps its artifacts in {location}, which is gone; "
            "move it back, or set tracking.experiment to another name"
        )


def _point(file: Path, old: str, new: str) -> None:
    with closing(sqlite3.connect(file, timeout=_TIMEOUT_S)) as database, database:
        for table, columns in _PLACES.items():
            for column in columns:
                database.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR {column} GLOB ?",
                    (new, len(old) + 1, old, f"{_literal(old)}/*"),
                )


def _literal(text: str) -> str:
    """A text as a pattern that matches it alone."""
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in text)
