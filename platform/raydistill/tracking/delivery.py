"""What each kind of record means to MLflow."""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from raydistill.tracking.registry import register_student
from raydistill.tracking.spool import Record

_LONGEST_PARAM = 6000
_PARAMS_PER_CALL = 100


def quiet_environment() -> None:
    """MLflow without telemetry, hub requests or migration logs; called before it is imported."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["GIT_PYTHON_REFRESH"] = "quiet"
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)


class Delivery:
    """An MLflow client that applies records; run keys map to run ids, which are kept in a file."""

    def __init__(self, uri: str, *, artifacts: str | None, experiment: str, folder: Path) -> None:
        quiet_environment()
        import mlflow

        quiet_environment()
        mlflow.set_tracking_uri(uri)
        self._client = mlflow.MlflowClient(uri)
        self._experiment = self._experiment_id(experiment, artifacts)
        self._runs_file = folder / "runs.json"
        self.runs: dict[str, str] = json.loads(self._runs_file.read_text()) if self._runs_file.is_file() else {}
        """Run ids by run key."""

    def _experiment_id(self, name: str, artifacts: str | None) -> str:
        existing = self._client.get_experiment_by_name(name)
        if existing is not None:
            return str(existing.experiment_id)
        return str(self._client.create_experiment(name, artifact_location=artifacts))

    def send(self, record: Record) -> None:
        """Apply one record."""
        handlers: dict[str, Callable[..., None]] = {
            "start": self._start,
            "params": self._params,
            "metrics": self._metrics,
            "artifact": self._artifact,
            "end": self._end,
        }
        fields = dict(record)
        handlers[fields.pop("kind")](**fields)

    def _start(self, key: str, name: str, parent: str | None, tags: Mapping[str, str], time_ms: int) -> None:
        if key in self.runs:
            self._client.update_run(self.runs[key], status="RUNNING")
            return
        system = {"mlflow.runName": name}
        if parent is not None:
            system["mlflow.parentRunId"] = self.runs[parent]
        run = self._client.create_run(self._experiment, start_time=time_ms, tags={**tags, **system}, run_name=name)
        self.runs[key] = run.info.run_id
        temporary = self._runs_file.with_suffix(".new")
        temporary.write_text(json.dumps(self.runs))
        temporary.replace(self._runs_file)

    def _params(self, key: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        known = self._client.get_run(self.runs[key]).data.params
        new = [Param(name, str(value)[:_LONGEST_PARAM]) for name, value in params.items() if name not in known]
        for start in range(0, len(new), _PARAMS_PER_CALL):
            self._client.log_batch(self.runs[key], params=new[start : start + _PARAMS_PER_CALL])

    def _metrics(self, key: str, metrics: Mapping[str, float], step: int, time_ms: int) -> None:
        from mlflow.entities import Metric

        values = [Metric(name, value, time_ms, step) for name, value in metrics.items()]
        self._client.log_batch(self.runs[key], metrics=values)

    def _artifact(self, key: str, path: str, folder: str | None) -> None:
        source = Path(path)
        if source.is_dir():
            self._client.log_artifacts(self.runs[key], path, folder)
        else:
            self._client.log_artifact(self.runs[key], path, folder)

    def _end(self, key: str, status: str, time_ms: int) -> None:
        self._client.set_terminated(self.runs[key], status, end_time=time_ms)

    def register(self, key: str, folder: str, **options: Any) -> int:
        """Put a student into the registry under the run of ``key``; returns the version."""
        return register_student(self._client, folder, run_id=self.runs[key], **options)


def now_ms() -> int:
    """Wall-clock time in milliseconds, as MLflow keeps it."""
    return time.time_ns() // 1_000_000
