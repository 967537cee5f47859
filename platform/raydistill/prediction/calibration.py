"""Rows of files as batches, by which an export learns the ranges of its activations."""

from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path

from raydistill.batch import Batch
from raydistill.deploy.predictor import Predictor
from raydistill.prediction.files import blocks, parts_of, rows_of
from raydistill.prediction.run import example_of


def calibration_batches(
    folder: Path, paths: Sequence[str], columns: Sequence[tuple[str, str]], *, most_rows: int
) -> list[Batch]:
    """Batches of the first ``most_rows`` rows of files as the model in ``folder`` reads them; none without files.

    Raises UserError for what cannot be read.
    """
    if not paths:
        return []
    predictor = Predictor(folder)
    rows = chain.from_iterable(rows_of(block) for part in parts_of(paths) for block in blocks(part))
    return list(predictor.batches([example_of(row, predictor, dict(columns)) for row in islice(rows, most_rows)]))
