"""The correlation of the ranks of scores; 0 for a constant, which has none."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

OF = "scores"
HIGHER_IS_BETTER = True


def metric(predictions: NDArray[Any], labels: NDArray[Any]) -> float:
    """Of scores (N,) and the true ones (N,)."""
    from scipy.stats import spearmanr

    constant = np.ptp(predictions) == 0 or np.ptp(labels) == 0
    return 0.0 if constant else float(spearmanr(predictions, labels).statistic)
