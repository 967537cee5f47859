"""Where people look at what was recorded: the runs of an experiment, in MLflow's own pages."""

import json
from pathlib import Path

from raydistill.atomic import write_json
from raydistill.config.sections import TrackingConfig
from raydistill.credentials import without_secrets
from raydistill.tracking.store import spool_folder, store_of

_FILE = "experiment.json"
_OWN_SERVER = "http://127.0.0.1:5000"
"""Where ``mlflow ui`` listens unless it is told otherwise."""


def note_experiment(folder: Path, experiment_id: str) -> None:
    """Note in a spool's folder which experiment of the store its records go to."""
    write_json(folder / _FILE, {"id": experiment_id})


def opening(config: TrackingConfig, root: Path, job: str) -> list[str]:
    """How to look at the runs of a job whose storage is ``root``: what serves them, unless a server does, and the page.

    The page is missing before the store was opened for the first time.
    """
    experiment = config.experiment or job
    uri = without_secrets(store_of(config, root, experiment).uri)
    is_server = uri.startswith(("http://", "https://"))
    serving = [] if is_server else [f"mlflow ui --backend-store-uri {uri}"]
    page = _page(uri.rstrip("/") if is_server else _OWN_SERVER, spool_folder(root, experiment, job) / _FILE)
    return [*serving, *([page] if page else [])] or [uri]


def _page(server: str, noted: Path) -> str:
    """The list of runs; without the type of work MLflow opens the traces of language models."""
    if not noted.is_file():
        return ""
    number = json.loads(noted.read_text(encoding="utf-8"))["id"]
    return f"{server}/#/experiments/{number}/runs?workflowType=machine_learning"
