"""MLflow without telemetry, hub requests, migration logs and git warnings; the one place that imports it."""

import importlib
import logging
import os
from typing import Any

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # The tracker tries again by itself; the client would keep it from noticing for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
}
_NOISY_LOGGERS = ("mlflow", "alembic")


def quiet_environment() -> dict[str, str]:
    """Variables that a process which will import MLflow should start with."""
    return dict(_ENVIRONMENT)


def load_mlflow(module: str = "mlflow") -> Any:
    """Import MLflow, or a module of it, when it is first needed.

    MLflow reads its telemetry switch and starts its reporting thread on import, so the variables are set before.
    """
    os.environ.update(_ENVIRONMENT)
    loaded = importlib.import_module(module)
    # MLflow configures its own loggers on import, so levels are set after it.
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    return loaded
