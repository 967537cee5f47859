"""raydistill: knowledge distillation of transformer language models, in your own loop or in jobs on Ray.

Everything in ``__all__`` is imported when it is asked for: ``import raydistill as rd`` itself imports no library, and
no name but those of jobs needs more than torch and transformers.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

__version__ = "0.2.0"

_MODULES = {"hf": "raydistill.hf", "losses": "raydistill.losses", "tasks": "raydistill.tasks"}
_NAMES = {
    "Distillation": "raydistill.api.distillation",
    "DistillationMethod": "raydistill.api.methods",
    "Predictor": "raydistill.deploy.predictor",
    "dynamic_kd_loss": "raydistill.losses.uncertainty",
    "sliced_student": "raydistill.models.slicing",
    "student_from_layers": "raydistill.models.layer_selection",
}
_MODULES_OF_JOBS = {"sections": "raydistill.job.sections", "sources": "raydistill.data.sources"}
_NAMES_OF_JOBS = {
    "Job": "raydistill.job.building",
    "from_checkpoint": "raydistill.job.sections",
    "from_layers": "raydistill.job.sections",
}
_RUNTIME = "pydantic"
"""A package that jobs need; where it is not installed ``import *`` brings none of their names."""


def _methods() -> dict[str, str]:
    """Names of the methods by those of their public classes."""
    discovery = import_module("raydistill.discovery")
    return {discovery.class_name(name): name for name in discovery.names("raydistill.methods")}


def __getattr__(name: str) -> Any:
    """Import what a public name stands for."""
    modules, names = {**_MODULES, **_MODULES_OF_JOBS}, {**_NAMES, **_NAMES_OF_JOBS}
    if name == "__all__":
        of_jobs = [*_MODULES_OF_JOBS, *_NAMES_OF_JOBS] if find_spec(_RUNTIME) else []
        return [*_MODULES, *_NAMES, *of_jobs, *_methods()]
    if name in _MODULES_OF_JOBS or name in _NAMES_OF_JOBS:
        with import_module("raydistill.options").named_if_missing(f"raydistill.{name}"):
            import_module({**modules, **names}[name])
    if name in modules:
        return import_module(modules[name])
    if name in names:
        return getattr(import_module(names[name]), name)
    methods = _methods() if name[:1].isupper() else {}
    if name in methods:
        return import_module("raydistill.api.methods").method_class(methods[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__getattr__("__all__")])
