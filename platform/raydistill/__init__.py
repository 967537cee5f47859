"""raydistill: knowledge distillation of transformer language models, in your own loop or in jobs on Ray.

Everything in ``__all__`` is imported when it is asked for: ``import raydistill as rd`` itself imports no library, and
no name but those of jobs needs more than torch and transformers.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_MODULES = ("hf", "losses")
_NAMES = {
    "Distillation": "raydistill.api.distillation",
    "DistillationMethod": "raydistill.api.methods",
    "dynamic_kd_loss": "raydistill.losses.uncertainty",
    "student_from_layers": "raydistill.models.layer_selection",
}


def _methods() -> dict[str, str]:
    """Names of the methods by those of their public classes."""
    discovery = import_module("raydistill.discovery")
    return {discovery.class_name(name): name for name in discovery.names("raydistill.methods")}


def __getattr__(name: str) -> Any:
    """Import what a public name stands for."""
    if name in _MODULES:
        return import_module(f"raydistill.{name}")
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    if name == "__all__":
        return [*_MODULES, *_NAMES, *_methods()]
    methods = _methods() if name[:1].isupper() else {}
    if name in methods:
        return import_module("raydistill.api.methods").method_class(methods[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__getattr__("__all__")])
