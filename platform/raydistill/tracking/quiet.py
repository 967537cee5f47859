"""MLflow without hub requests, migration logs and git warnings; the one place that imports it."""

import importlib
import logging
import os
from typing import Any

from raydistill.environment import quiet_variables

_MLFLOW = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # Delivery tries again by itself; the client would keep it from noticing for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}
_NOISY_LOGGERS = ("mlflow", "alembic")


def mlflow_environment() -> dict[str, str]:
    """Variables that a process which will import MLflow should start with."""
    return {**quiet_variables(), **_MLFLOW}


def load_mlflow(module: str = "mlflow") -> Any:
    """Import MLflow, or a module of it, when it is first needed.

    MLflow reads its telemetry switch and starts its reporting thread on import, so the variables are set before.
    """
    os.environ.update(mlflow_environment())
    loaded = importlib.import_module(module)
    # MLflow configures its own loggers on import, so levels are set after it.
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    return loaded
