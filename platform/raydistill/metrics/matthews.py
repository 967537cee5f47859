"""The correlation coefficient of Matthews."""

from typing import Any

from numpy.typing import NDArray

OF = "classes"
HIGHER_IS_BETTER = True


def metric(predictions: NDArray[Any], labels: NDArray[Any]) -> float:
    """Of class ids (N,) and the true ones (N,)."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, predictions))
