"""A student folder as a version in MLflow's model registry, in its ``transformers`` flavour."""

import hashlib
import importlib
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from raydistill.tracking.quiet import load_mlflow
from raydistill.user_error import UserError

CARD, MODEL, EXPORTS = "README.md", "model", "exports"
"""Names in a version: a model's card, its transformers folder, and the folder of its exports by their formats."""
_CONTENT_TAG = "raydistill.content"
_ARTIFACT_NAME = "student"
_REQUIREMENTS = ("torch", "transformers")
_DESCRIPTION = 5000
_CHUNK_BYTES = 1 << 20
_PIPELINES = {
    "causal_lm": "text-generation",
    "masked_lm": "fill-mask",
    "sequence_classification": "text-classification",
    "token_classification": "token-classification",
    # Transformers 5 has no pipeline that answers questions; this one loads the model with its head.
    "question_answering": "feature-extraction",
}
"""The pipeline that loads a model with a head."""


def register_student(
    client: Any,
    folder: Path,
    *,
    name: str,
    run_id: str,
    tags: Mapping[str, str],
    alias: str = "candidate",
    metrics: Mapping[str, float] | None = None,
    task: str | None = None,
    card: str | None = None,
    exports: Mapping[str, str] | None = None,
    timestamp: int | None = None,
) -> int:
    """Register the model and tokenizer in ``folder`` and return the version number.

    ``task`` is the transformers pipeline that loads it, None for the one of its head. ``card`` is kept beside the
    model as ``README.md``, and the folders of ``exports`` below ``exports`` by their formats.
    No hub is asked. The same content of the same run is registered once: a second call gives the version of the
    first, and points ``alias`` to it again; after one that was interrupted it continues with what that one made.
    ``timestamp`` (in ms) keeps the metrics of a second call equal to those of the first.
    Raises ValueError if the folder is no checkpoint with a tokenizer.
    """
    _check_checkpoint(folder)
    kept = {to: Path(export) for to, export in (exports or {}).items()}
    content = _content_with(folder, kept)
    number = _registered(client, name, run_id, content)
    if number is None:

        def save(target: Path, logged: Any) -> None:
            _save_flavour(folder.absolute(), target, logged, run_id=run_id, task=task)
            if card is not None:
                (target / CARD).write_text(card, encoding="utf-8")
            for to, export in kept.items():
                shutil.copytree(export, target / EXPORTS / to)

        model_id = _log_student(client, save, run_id=run_id, content=content)
        for metric, value in (metrics or {}).items():
            client.log_metric(run_id, metric, value, timestamp=timestamp, model_id=model_id)
        number = _create_version(
            client, name, model_id, run_id=run_id, tags={**tags, _CONTENT_TAG: content}, description=_about(card)
        )
    client.set_registered_model_alias(name, alias, str(number))
    return number


def _content_with(folder: Path, exports: Mapping[str, Path]) -> str:
    """The content hash of a student, and with exports one over theirs too."""
    own = content_hash(folder)
    if not exports:
        return own
    return hashlib.sha256(repr([own, *((to, content_hash(each)) for to, each in exports.items())]).encode()).hexdigest()


def content_hash(folder: Path) -> str:
    """SHA-256 over the names and contents of all files below ``folder``."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def _check_checkpoint(folder: Path) -> None:
    for file in ("config.json", "tokenizer_config.json"):
        if not (folder / file).is_file():
            raise UserError(f"model {str(folder)!r} has no {file}; register a folder with a model and its tokenizer")


def _registered(client: Any, name: str, run_id: str, content: str) -> int | None:
    found = client.search_model_versions(f"run_id = '{run_id}'")
    same = [one for one in found if one.name == name and one.tags.get(_CONTENT_TAG) == content]
    return max((int(one.version) for one in same), default=None)


def _log_student(client: Any, save: Callable[[Path, Any], None], *, run_id: str, content: str) -> str:
    """The model that ``save`` writes to a new folder, given that folder and the model's entry, unless it is there."""
    mlflow = load_mlflow("mlflow")
    run = client.get_run(run_id)
    logged = _logged_before(client, run, content) or client.create_logged_model(
        run.info.experiment_id, name=_ARTIFACT_NAME, source_run_id=run_id, tags={_CONTENT_TAG: content}
    )
    outputs = run.outputs.model_outputs if run.outputs else []
    if logged.model_id not in {output.model_id for output in outputs}:
        client.log_outputs(run_id, [mlflow.entities.LoggedModelOutput(logged.model_id, step=0)])
    if logged.status == "READY":
        return str(logged.model_id)
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary) / "model"
        save(target, logged)
        client.log_model_artifacts(logged.model_id, str(target))
    client.finalize_logged_model(logged.model_id, "READY")
    return str(logged.model_id)


def _logged_before(client: Any, run: Any, content: str) -> Any | None:
    """The model that an earlier call logged, or began to log before it was interrupted."""
    query = f"source_run_id = '{run.info.run_id}' AND tags.`{_CONTENT_TAG}` = '{content}'"
    found = client.search_logged_models([run.info.experiment_id], filter_string=query, max_results=1)
    return found[0] if found else None


def _save_flavour(folder: Path, target: Path, logged: Any, *, run_id: str, task: str | None) -> None:
    model = load_mlflow("mlflow.models").Model(
        artifact_path=logged.artifact_location, run_id=run_id, model_uuid=logged.model_id, model_id=logged.model_id
    )
    components = _components(folder)
    load_mlflow("mlflow.transformers").save_model(
        components,
        str(target),
        task=task or _pipeline(components["model"]),
        mlflow_model=model,
        pip_requirements=[f"{package}=={version(package).partition('+')[0]}" for package in _REQUIREMENTS],
    )
    # MLflow keeps the tokenizer in a folder of its own. Without it beside the weights, transformers makes an empty
    # one there, without an error, that knows no word.
    components["tokenizer"].save_pretrained(target / MODEL)
    # MLflow finds no license on the hub for a local folder and writes a pointer to a page that does not exist.
    (target / "LICENSE.txt").unlink(missing_ok=True)


def _pipeline(model: Any) -> str:
    # Imports torch, which a tracker that registers nothing does without.
    from raydistill.models.load import head_of

    return _PIPELINES[head_of(model)]


def _components(folder: Path) -> dict[str, Any]:
    """Model and tokenizer by plain transformers; MLflow 3.17 cannot read a folder itself with transformers 5."""
    transformers = importlib.import_module("transformers")
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    architecture = (config.architectures or ["none"])[0]
    model_type = getattr(transformers, architecture, None)
    if model_type is None:
        raise UserError(f"model {str(folder)!r} is a {architecture}, which transformers does not have")
    model = model_type.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    return {"model": model, "tokenizer": transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)}


def _about(card: str | None) -> str | None:
    """What a card says, without what only hubs read, in as many letters as a version's description has."""
    if card is None:
        return None
    text = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.DOTALL).strip()
    return text if len(text) <= _DESCRIPTION else f"{text[: _DESCRIPTION - 2].rpartition(chr(10))[0]}\n…"


def _create_version(
    client: Any, name: str, model_id: str, *, run_id: str, tags: Mapping[str, str], description: str | None
) -> int:
    mlflow = load_mlflow("mlflow")
    try:
        client.create_registered_model(name)
    except mlflow.MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    created = client.create_model_version(
        name,
        source=f"models:/{model_id}",
        run_id=run_id,
        tags=dict(tags),
        model_id=model_id,
        description=description,
    )
    return int(created.version)
