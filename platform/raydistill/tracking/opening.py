"""MLflow's client of a store. Where MLflow would create or migrate a database, processes take turns.

MLflow guards nothing there: two that find the same database empty both make its tables, and a SQLite file stays broken.
A file has a lock beside it, a PostgreSQL database one in itself; MySQL and SQL Server have none, and whoever meets
another one there has to open it again.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from raydistill.locks import HeldError, Lock, hold
from raydistill.tracking.quiet import load_mlflow
from raydistill.tracking.store import database_file
from raydistill.user_error import UserError

_WAIT_S = 300
_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_HALF_MADE = re.compile(r"table \S+ already exists|duplicate column name|Online migration expected")
"""What SQLite and Alembic say where a migration finds what an earlier one that was disturbed has left."""
_POSTGRESQL_KEY = 0x7261796469737469
"""Names the lock among all of a database: ``raydisti`` in ASCII."""


def open_client(uri: str) -> Any:
    """An ``MlflowClient`` of the store at ``uri`` and of its model registry, both of which it opens.

    Raises what MLflow raises; TimeoutError when another process is at it for minutes; ValueError, with the remedy, for
    a SQLite file whose creation was never finished.
    """
    mlflow = load_mlflow()
    mlflow.set_tracking_uri(uri)
    # Named, since without one a client takes the registry that this process asked last.
    mlflow.set_registry_uri(uri)
    file = database_file(uri)
    if file is not None:
        with _file_alone(file):
            return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    if urlsplit(uri).scheme.split("+")[0] == "postgresql":
        with _postgresql_alone(uri):
            return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextmanager
def _file_alone(file: Path) -> Iterator[None]:
    lock = _lock_of(file)
    try:
        yield
    except Exception as error:
        if _HALF_MADE.search(str(error)):
            raise UserError(
                f"{file} was left half made by several commands that created it at once, or by one that was stopped: "
                "move it away and run the same command again, which makes a new one; its runs stay in the old file"
            ) from error
        raise
    finally:
        if lock is not None:
            lock.release()


def _lock_of(file: Path) -> Lock | None:
    """The lock of a database file; None where nothing can be made beside it, so that nobody here creates it either."""
    try:
        # Through links, of which others may take no notice.
        place = file.resolve()
        return hold(place.with_name(f".{place.name}.lock"), timeout_s=_WAIT_S)
    except HeldError as error:
        raise TimeoutError(f"{file} is being created by {error.holder}; wait for that process or end it") from None
    except OSError as error:
        if error.errno in _REFUSED:
            return None
        raise


@contextmanager
def _postgresql_alone(uri: str) -> Iterator[None]:
    engine = load_mlflow("mlflow.store.db.utils").create_sqlalchemy_engine(uri)
    try:
        # Of a transaction, not of a session, which a pool of connections between may give to others.
        with engine.begin() as connection:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_WAIT_S}s'")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_POSTGRESQL_KEY})")
            yield
    finally:
        engine.dispose()
