"""Where the model lies that a command names."""

from pathlib import Path

from raydistill.config.sections import ModelRef
from raydistill.registry.client import Registry, registry_uri
from raydistill.registry.reference import ModelReference, is_registered
from raydistill.stages._models import resolve


def model_folder(model: str, storage: Path | None, uri: str | None, temporary: Path) -> Path:
    """The folder of a checkpoint: a folder, a stage's output, a registered version, a place of a store, or a hub name.

    A registered version is looked up as ``raydistill models`` does it, and copied below ``temporary``. Raises UserError
    for what is nowhere.
    """
    if is_registered(model):
        registry = Registry(registry_uri(storage, uri))
        copy = temporary / "model"
        copy.mkdir()
        reference = ModelReference.parse(model)
        return registry.download_checkpoint(registry.find(reference), copy, export=reference.export)
    student = Path(model) / "student"
    if (student / "config.json").is_file():
        return student
    return resolve(ModelRef(checkpoint=model), {})
