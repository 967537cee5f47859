"""Loss terms: tensors and floats in, tensors out, one value for each row, place or vector unless a name says otherwise.

They know no configuration, so that any training loop can call them. A module is imported when one of its names is asked
for. Raises AttributeError for a name that there is not. Shapes, units, errors and sources: see each one.

>>> student_logits, teacher_logits = torch.zeros(8, 3), torch.ones(8, 3)
>>> rd.losses.kl_divergence(student_logits, teacher_logits, temperature=4).mean()
tensor(0.)
"""

from importlib import import_module
from typing import Any

_NAMES = {
    "chunked_head": ("vocabulary_losses",),
    "classification": ("label_loss",),
    "divergences": ("divergence_of",),
    "hidden_states": ("cosine_distance", "mean_squared_difference", "pkd_loss"),
    "integrated_targets": (
        "agreement",
        "concatenated_target",
        "hard_choice",
        "mixed_target",
        "score_margin",
        "soft_choice",
    ),
    "matched_states": ("error_over_hidden", "error_over_tokens"),
    "mean_discrepancy": ("mmd",),
    "reduction": ("mean_over",),
    "soft_targets": ("kl_divergence", "soft_cross_entropy", "soft_label_loss", "squared_error", "tempered_divergence"),
    "top_k": ("TopK", "top_k_divergence", "top_k_of"),
    "uncertainty": ("confidence", "divergence_from_labels", "dynamic_kd_loss", "margin", "normalized_entropy"),
}
"""Public names by the module that has them."""
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    """Import a loss."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
