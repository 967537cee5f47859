"""Which positions of a row are interchanged with which positions of its partner."""

import numpy as np
from numpy.typing import NDArray

from raydistill import draws

Integers = NDArray[np.int64]


def span_lengths(
    lengths: Integers, partner_lengths: Integers, *, proportion: float, max_tokens: int | None
) -> Integers:
    """Number of interchanged positions of each row: floor(min(length, partner's) * proportion), at most max_tokens."""
    counts = np.floor(np.minimum(lengths, partner_lengths) * proportion).astype(np.int64)
    return counts if max_tokens is None else np.minimum(counts, max_tokens)


def consecutive_positions(
    lengths: Integers,
    partner_lengths: Integers,
    row_ids: Integers,
    *,
    width: int,
    partner_width: int,
    proportion: float,
    max_tokens: int | None,
    seed: int,
    epoch: int,
) -> tuple[Integers, Integers]:
    """One span of each row and one of its partner, equally long and placed independently.

    Shapes: (B,) each; ``width`` and ``partner_width`` are the padded lengths T and T'. Returns flat indices
    ``row * T + position`` (P,) of the base, ascending, and (P,) of the partner: the k-th position of a row's span
    receives the k-th of its partner's. Spans lie inside the true lengths and may cover special tokens; starts are
    uniform, drawn from (seed, epoch, row id), so they do not depend on the batch a row is in.
    """
    counts = span_lengths(lengths, partner_lengths, proportion=proportion, max_tokens=max_tokens)
    keys = (seed, epoch, row_ids)
    base_starts = draws.integers("interchange_base", *keys, high=lengths - counts + 1)
    partner_starts = draws.integers("interchange_partner", *keys, high=partner_lengths - counts + 1)
    rows = np.repeat(np.arange(len(counts)), counts)
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return rows * width + base_starts[rows] + offsets, rows * partner_width + partner_starts[rows] + offsets
