"""Records to MLflow: the only code that calls its client."""

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from raydistill import names
from raydistill.atomic import write_json
from raydistill.tracking.moved import follow_storage
from raydistill.tracking.opening import open_client
from raydistill.tracking.quiet import load_mlflow
from raydistill.tracking.registration import register_student
from raydistill.tracking.store import Store
from raydistill.user_error import UserError

_KEY_TAG = "raydistill.key"
_TOKEN_TAG = "raydistill.token"
_PLACE_TAG = "raydistill.storage"
_CONTEXT_TAG = "mlflow.data.context"
_DIGEST = 16
"""Digits of a data set's digest."""
_MAX_METRICS = 1000
_MAX_PARAMS = 100
_RETRIED_STATUS = frozenset({401, 403, 408, 429})


class MlflowWriter:
    """Delivers records to one experiment and remembers the run of each key in ``runs_file``."""

    def __init__(self, store: Store, runs_file: Path) -> None:
        self._mlflow = load_mlflow()
        self._client = open_client(store.uri)
        self._experiment_id = self._open_experiment(store)
        self._place = store.place
        self._runs_file = runs_file
        self._runs: dict[str, str] = json.loads(runs_file.read_text()) if runs_file.is_file() else {}

    @property
    def experiment_id(self) -> str:
        """The number that the store has for the experiment."""
        return self._experiment_id

    def deliver(self, record: Mapping[str, Any]) -> Any:
        """Send one record; returns the run id of ``start_run`` and the version of ``register_model``.

        Raises what the client raises; ``is_permanent`` tells whether a second attempt can help.
        """
        return getattr(self, f"_{record['op']}")(record)

    def deliver_metrics(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Send ``log_metrics`` records of one key in as few requests as possible."""
        metrics = []
        for record in records:
            legal = names.distinct(record["metrics"], names.METRIC)
            metrics += [
                self._mlflow.entities.Metric(legal[name], value, record["time"], record["step"])
                for name, value in record["metrics"].items()
            ]
        self._log_all(self._run_id(records[0]["key"]), "metrics", metrics, _MAX_METRICS)

    def is_permanent(self, error: Exception) -> bool:
        """Whether this failure will repeat however often the record is sent."""
        if isinstance(error, self._mlflow.MlflowException):
            status = error.get_http_status_code()
            return status < 500 and status not in _RETRIED_STATUS
        return isinstance(error, ValueError | TypeError | LookupError)

    def missing_runs(self, records: Iterable[Mapping[str, Any]]) -> list[str]:
        """Keys of the runs that these records continue and that are not in this store, though they were started."""
        started: set[str] = set()
        continued: dict[str, None] = {}
        for record in records:
            starts = record["op"] == "start_run"
            keys = [record["parent"]] if starts else [record["key"]]
            continued |= {key: None for key in keys if key in self._runs and key not in started}
            started |= {record["key"]} if starts else set()
        return [key for key in continued if not self._exists(self._runs[key])]

    def know_runs(self, runs: Mapping[str, str]) -> None:
        """Remember runs that others started for keys of which this writer has started none, by key."""
        self._runs = {**runs, **self._runs}
        write_json(self._runs_file, self._runs)

    def _open_experiment(self, store: Store) -> str:
        found = self._client.get_experiment_by_name(store.experiment)
        if found is None:
            try:
                return str(self._client.create_experiment(store.experiment, artifact_location=store.artifact_location))
            except self._mlflow.MlflowException as error:
                # Another job of the experiment began at the same moment.
                found = self._client.get_experiment_by_name(store.experiment)
                if found is None or error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
        if found.lifecycle_stage == "deleted":
            raise UserError(
                f"tracking.experiment {store.experiment!r} was deleted in MLflow; restore it, or choose another name"
            )
        follow_storage(store, found.artifact_location)
        return str(found.experiment_id)

    def _run_id(self, key: str) -> str:
        if key not in self._runs:
            raise KeyError(f"no run was started for {key!r}")
        return self._runs[key]

    def _start_run(self, record: Mapping[str, Any]) -> str:
        run_id = self._resumed(record) or self._sent_before(record) or self._created(record)
        self._runs[record["key"]] = run_id
        write_json(self._runs_file, self._runs)
        return run_id

    def _resumed(self, record: Mapping[str, Any]) -> str | None:
        if not record["resume"]:
            return None
        run_id = self._runs.get(record["key"]) or self._elsewhere(record["key"])
        if run_id is None or not self._exists(run_id):
            return None
        self._client.update_run(run_id, status="RUNNING")
        self._log_tags(run_id, record["tags"])
        return run_id

    def _elsewhere(self, key: str) -> str | None:
        """The latest run that another machine started for this key of the same storage, in an object store."""
        if self._place is None:
            return None
        place = names.legal(self._place, names.SEARCHED)
        return self._latest(
            f"tags.`{_KEY_TAG}` = '{names.legal(key, names.SEARCHED)}' and tags.`{_PLACE_TAG}` = '{place}'"
        )

    def _sent_before(self, record: Mapping[str, Any]) -> str | None:
        """The run that this very record made when its answer was lost."""
        return self._latest(f"tags.`{_TOKEN_TAG}` = '{record['token']}'")

    def _latest(self, query: str) -> str | None:
        found = self._client.search_runs(
            [self._experiment_id], filter_string=query, max_results=1, order_by=["attributes.start_time DESC"]
        )
        return str(found[0].info.run_id) if found else None

    def _created(self, record: Mapping[str, Any]) -> str:
        tags = {**_legal_keys(record["tags"]), _TOKEN_TAG: record["token"]}
        tags[_KEY_TAG] = names.legal(record["key"], names.SEARCHED)
        tags |= {} if self._place is None else {_PLACE_TAG: names.legal(self._place, names.SEARCHED)}
        if record["parent"] is not None:
            tags["mlflow.parentRunId"] = self._run_id(record["parent"])
        run = self._client.create_run(
            self._experiment_id, start_time=record["time"], tags=tags, run_name=names.short(record["name"], names.RUN)
        )
        return str(run.info.run_id)

    def _exists(self, run_id: str) -> bool:
        try:
            return bool(self._client.get_run(run_id).info.lifecycle_stage == "active")
        except self._mlflow.MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def _log_params(self, record: Mapping[str, Any]) -> None:
        run_id = self._run_id(record["key"])
        known = self._client.get_run(run_id).data.params
        given = _legal_keys(record["params"])
        params = [self._mlflow.entities.Param(name, value) for name, value in given.items() if name not in known]
        self._log_all(run_id, "params", params, _MAX_PARAMS)
        changed = [name for name, value in given.items() if known.get(name, value) != value]
        if changed:
            # MLflow never changes a parameter: a resumed run keeps the first value and tells the new one as a tag.
            self._log_tags(run_id, {f"changed.{name}": given[name] for name in changed})

    def _log_metrics(self, record: Mapping[str, Any]) -> None:
        self.deliver_metrics([record])

    def _set_tags(self, record: Mapping[str, Any]) -> None:
        self._log_tags(self._run_id(record["key"]), record["tags"])

    def _log_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        entities = [self._mlflow.entities.RunTag(name, value) for name, value in _legal_keys(tags).items()]
        self._log_all(run_id, "tags", entities, _MAX_PARAMS)

    def _log_all(self, run_id: str, kind: str, entities: Sequence[Any], at_once: int) -> None:
        """Send metrics, parameters or tags of a run; one that MLflow refuses keeps none of the others away.

        Raises ValueError that names the refused once all others have arrived, and what the client raises otherwise.
        """
        refused: dict[str, str] = {}
        waiting = [entities[start : start + at_once] for start in range(0, len(entities), at_once)]
        while waiting:
            some, *waiting = waiting
            try:
                self._client.log_batch(run_id, **{kind: some})
            except self._mlflow.MlflowException as error:
                # A run that is gone or deleted refuses each of them.
                if not self.is_permanent(error) or not (refused or self._exists(run_id)):
                    raise
                half = len(some) // 2
                waiting = [some[:half], some[half:], *waiting] if half else waiting
                refused |= {} if half else {some[0].key: str(error)}
        if refused:
            why = next(iter(refused.values()))
            raise UserError(f"MLflow refused {', '.join(map(repr, refused))}: {why}")

    def _log_dataset(self, record: Mapping[str, Any]) -> None:
        entities = self._mlflow.entities
        dataset = entities.Dataset(
            name=names.short(record["name"], names.RUN),
            digest=record["digest"][:_DIGEST],
            source_type="local",
            source=json.dumps(record["source"]),
            profile=json.dumps(record["profile"]),
        )
        context = entities.InputTag(_CONTEXT_TAG, record["context"])
        self._client.log_inputs(self._run_id(record["key"]), [entities.DatasetInput(dataset, [context])])

    def _log_artifact(self, record: Mapping[str, Any]) -> None:
        if not Path(record["path"]).exists():
            raise UserError(f"artifact {record['path']} does not exist")
        log = self._client.log_artifacts if Path(record["path"]).is_dir() else self._client.log_artifact
        log(self._run_id(record["key"]), record["path"], record["folder"])

    def _log_text(self, record: Mapping[str, Any]) -> None:
        path = Path(record["file"])
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / path.name
            local.write_text(record["text"], encoding="utf-8")
            target = None if path.parent == Path() else path.parent.as_posix()
            self._client.log_artifact(self._run_id(record["key"]), str(local), target)

    def _end_run(self, record: Mapping[str, Any]) -> None:
        self._client.set_terminated(self._run_id(record["key"]), status=record["status"], end_time=record["time"])

    def _register_model(self, record: Mapping[str, Any]) -> int:
        # A record that waited since an older release has neither card nor exports.
        options: dict[str, Any] = {
            name: record.get(name) for name in ("name", "tags", "alias", "metrics", "task", "card", "exports")
        }
        run_id = self._run_id(record["key"])
        folder = Path(record["folder"])
        return register_student(self._client, folder, run_id=run_id, timestamp=record["time"], **options)


def _legal_keys(values: Mapping[str, str]) -> dict[str, str]:
    """Parameters or tags under names that MLflow takes."""
    legal = names.distinct(values, names.KEY)
    return {legal[name]: value for name, value in values.items()}
