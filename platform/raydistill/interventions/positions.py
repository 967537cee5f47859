"""Which positions of a row are interchanged with which positions of its partner, and which row is whose partner."""

import numpy as np
from numpy.typing import NDArray

from raydistill import draws

Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]

MODES = ("consecutive", "masked", "random")
"""How positions are chosen; see ``interchange_positions``."""

_LAST = np.uint64(2**64 - 1)


def interchange_positions(
    mode: str,
    lengths: Integers,
    partner_lengths: Integers,
    row_ids: Integers,
    *,
    width: int,
    partner_width: int,
    proportion: float,
    max_tokens: int | None,
    padded: bool,
    label_index: Integers | None,
    seed: int,
    epoch: int,
) -> tuple[Integers, Integers]:
    """Positions of each row and equally many of its partner, in one of three modes.

    ``consecutive``: one span of each, see ``consecutive_positions``. ``random``: as many positions as a span would
    have, drawn without replacement. ``masked``: the row's masked tokens, a random part of them where they outnumber
    the partner's tokens, with random positions of the partner; ``proportion`` and ``max_tokens`` have no say.

    Shapes: (B,) each; ``width`` and ``partner_width`` are the padded lengths T and T'. ``label_index`` (M,) are flat
    indices into (B, T) of the masked tokens, needed by ``masked`` alone. Returns flat indices (P,) into the base's
    (B, T) and (P,) into the partner's (B, T'), both ascending: the k-th of a row is paired with its partner's k-th.
    All draws are keyed by (seed, epoch, row id, position). With ``padded`` random positions come from the whole
    padded width, as published, so that they depend on the batch; otherwise from the true lengths.
    Source: Causal-Distill, ``prepare_interchange_mask``.
    """
    if mode == "consecutive":
        return consecutive_positions(
            lengths,
            partner_lengths,
            row_ids,
            width=width,
            partner_width=partner_width,
            proportion=proportion,
            max_tokens=max_tokens,
            seed=seed,
            epoch=epoch,
        )
    if mode == "masked":
        assert label_index is not None, "masked positions need the label positions"
        allowed = np.zeros((len(lengths), width), dtype=np.bool_)
        allowed.reshape(-1)[label_index] = True
        counts = np.minimum(np.count_nonzero(allowed, axis=1), partner_lengths)
    else:
        assert mode == "random", f"mode is {mode!r}"
        allowed = _places(lengths, width, padded=padded)
        counts = span_lengths(lengths, partner_lengths, proportion=proportion, max_tokens=max_tokens)
    keys = (seed, epoch, row_ids)
    base = _sample("interchange_base", keys, allowed, counts)
    partner = _sample("interchange_partner", keys, _places(partner_lengths, partner_width, padded=padded), counts)
    return base, partner


def in_batch_partners(row_ids: Integers, *, seed: int, epoch: int) -> Integers:
    """The number in the batch (B,) of each row's partner, another row of the batch.

    Rows stand in an order drawn from (seed, epoch, row id), each with the next as its partner and the last with the
    first: every row is the partner of one row, and of itself only where it is alone.
    """
    order = np.argsort(draws.hash64("in-batch partner", seed, epoch, row_ids), kind="stable")
    partners = np.empty(len(order), dtype=np.int64)
    partners[order] = np.roll(order, -1)
    return partners


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


def _places(lengths: Integers, width: int, *, padded: bool) -> Mask:
    """Places (B, T) that may be drawn: real tokens, with ``padded`` all."""
    if padded:
        return np.ones((len(lengths), width), dtype=np.bool_)
    mask: Mask = np.arange(width) < lengths[:, None]
    return mask


def _sample(stream: str, keys: tuple[int, int, Integers], allowed: Mask, counts: Integers) -> Integers:
    """Flat indices, ascending, of ``counts`` allowed places of each row, uniform without replacement.

    Of each row those with the smallest hashes; ``counts`` are at most the allowed places.
    """
    seed, epoch, row_ids = keys
    # Places of one row never have equal hashes: the last key goes through a bijection of 64 bits.
    hashes = draws.hash64(stream, seed, epoch, row_ids[:, None], np.arange(allowed.shape[1]))
    hashes = np.where(allowed, hashes, _LAST)
    last = np.sort(hashes, axis=1)[np.arange(len(counts)), np.maximum(counts, 1) - 1]
    return np.flatnonzero((hashes <= last[:, None]) & (counts > 0)[:, None])
