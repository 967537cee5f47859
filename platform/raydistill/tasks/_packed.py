"""Short sequences of small numbers, such as a row's tags or text, as few float64 values that travel in sums."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_BITS = 52
"""Bits of a whole number that a float64 keeps exactly, less one."""
_TEXT_BITS = 9


def pack(rows: Sequence[Sequence[int]], *, width: int, bits: int) -> NDArray[np.float64]:
    """Rows of numbers from 0 to ``2**bits - 2``, at most ``width`` each, as (B, ceil(width / (52 // bits)))."""
    each = _BITS // bits
    # Each number is one more, so that 0 is the end.
    digits = np.zeros((len(rows), -(-width // each) * each), dtype=np.int64)
    for digit, row in zip(digits, rows, strict=True):
        digit[: len(row)] = np.asarray(row, dtype=np.int64) + 1
    weights = 1 << (bits * np.arange(each, dtype=np.int64))
    return (digits.reshape(len(rows), -1, each) * weights).sum(axis=-1).astype(np.float64)


def unpack(packed: NDArray[np.float64], *, bits: int) -> list[list[int]]:
    """The rows that ``pack`` was given."""
    shifts = bits * np.arange(_BITS // bits, dtype=np.int64)
    digits = (packed.astype(np.int64)[..., None] >> shifts) & ((1 << bits) - 1)
    return [[digit - 1 for digit in row if digit] for row in digits.reshape(len(packed), -1).tolist()]


def pack_texts(texts: Sequence[str], *, num_bytes: int) -> NDArray[np.float64]:
    """Texts cut to so many bytes of UTF-8."""
    return pack([list(text.encode("utf-8", "replace")[:num_bytes]) for text in texts], width=num_bytes, bits=_TEXT_BITS)


def unpack_texts(packed: NDArray[np.float64]) -> list[str]:
    """The texts that ``pack_texts`` was given; of a letter that was cut in two nothing is left."""
    return [bytes(row).decode("utf-8", "ignore") for row in unpack(packed, bits=_TEXT_BITS)]
