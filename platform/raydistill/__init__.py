"""raydistill: knowledge distillation of transformer language models on Ray."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raydistill.losses.uncertainty import dynamic_kd_loss

__all__ = ["dynamic_kd_loss"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import ``dynamic_kd_loss`` when it is asked for, so that the package itself imports no torch."""
    if name == "dynamic_kd_loss":
        from raydistill.losses.uncertainty import dynamic_kd_loss

        return dynamic_kd_loss
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
