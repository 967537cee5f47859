"""Values of rows whose mean is a metric, against scikit-learn's metrics of all rows."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss

from raydistill.report.row_values import row_values

LABELS = np.array(["bad", "good", "bad", "good"], dtype=object)
PREDICTIONS = np.array(["bad", "bad", "bad", "good"], dtype=object)
GOOD = np.array([0.2, 0.4, 0.3, 0.9])
CLASSES = {
    "row_id": np.array([7, 3, 5, 1]),
    "label": LABELS,
    "prediction": PREDICTIONS,
    "probability.bad": 1 - GOOD,
    "probability.good": GOOD,
}


def test_accuracy_and_loss_of_classes_are_means_over_rows() -> None:
    values, weights = row_values(CLASSES, "accuracy")
    assert values @ weights / weights.sum() == accuracy_score(LABELS, PREDICTIONS)
    losses, _ = row_values(CLASSES, "loss")
    assert losses.mean() == pytest.approx(log_loss(LABELS, np.stack([1 - GOOD, GOOD], axis=1)))


def test_rows_stand_in_the_order_of_their_numbers() -> None:
    values, _ = row_values(CLASSES, "accuracy")
    assert values.tolist() == [1.0, 0.0, 1.0, 1.0]


def test_the_loss_of_scores_is_their_squared_error() -> None:
    columns = {"row_id": [0, 1], "label": np.array([1.0, 2.0]), "prediction": np.array([1.5, 0.0])}
    assert row_values(columns, "loss")[0].tolist() == [0.25, 4.0]


@pytest.mark.parametrize(("figure", "mean"), [("loss", 0.9), ("perplexity", 0.9), ("accuracy", 0.3)])
def test_rows_of_tokens_count_by_their_number_of_tokens(figure: str, mean: float) -> None:
    columns = {"row_id": [0, 1, 2], "loss": [4.0, 5.0, 0.0], "correct": [1.0, 2.0, 0.0], "tokens": [4.0, 6.0, 0.0]}
    values, weights = row_values(columns, figure)
    assert values @ weights / weights.sum() == pytest.approx(mean)
    assert weights.tolist() == [4.0, 6.0, 0.0]


def test_a_figure_that_rows_have_by_name_is_taken_as_it_is() -> None:
    columns = {"row_id": [1, 0], "label": ["a", "b"], "prediction": ["a b", "b"], "f1": [0.5, 1.0]}
    assert row_values(columns, "f1")[0].tolist() == [1.0, 0.5]
