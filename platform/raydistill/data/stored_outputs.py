"""Stored teacher outputs beside the rows of a batch: which sets, and the columns that they become."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raydistill.data.teacher_outputs import OutputSet
from raydistill.methods._base import stored_name
from raydistill.user_error import UserError

JOINED = ("logits", "cls_states", "dropout_scores")
"""Kinds that become columns of a batch."""
TEACHER_ROWS = "teacher/rows"
"""Metric: rows that teachers were run on."""


@dataclass(frozen=True)
class StoredSet:
    """A set by its folder, and the hash that it had when the training was made."""

    uri: str
    hash: str


@dataclass(frozen=True)
class StoredOutputs:
    """What is joined to the rows of one feed, as plain data."""

    sets: tuple[tuple[StoredSet, ...], ...]
    """Of each teacher, in the order that the method numbers them, the set of each part of the corpus."""
    kinds: tuple[str, ...]
    layers: tuple[tuple[int, ...], ...] = ()
    """Of each teacher, numbers k of the hidden states hs[k] whose CLS states are wanted, in the order of the column."""
    labels: tuple[tuple[str, ...], ...] = ()
    """Of each teacher, the names of the classes of its logits in their order, a part of the student's or all."""


class StoredColumns:
    """Reads the outputs of rows; raises ValueError when a set is not the one that was named."""

    def __init__(self, stored: StoredOutputs) -> None:
        self._stored = stored
        self._sets = [[open_set(one.uri, one.hash) for one in parts] for parts in stored.sets]

    def read(self, parts: NDArray[np.int64], within: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Columns of rows, given the part of the corpus that each lies in and its number there; of the stored types."""
        found = {}
        for number, sets in enumerate(self._sets):
            for kind in self._stored.kinds:
                values = _read(sets, kind, parts, within)
                if kind == "cls_states":
                    values = values[:, [sets[0].header.layers.index(layer) for layer in self._stored.layers[number]]]
                found[stored_name(number, kind)] = values
        return found


def _read(sets: Sequence[OutputSet], kind: str, parts: NDArray[np.int64], within: NDArray[np.int64]) -> NDArray[Any]:
    column = sets[0].header.columns[kind]
    values = np.empty((len(within), *column.shape), dtype=column.dtype)
    for part in np.unique(parts):
        here = np.flatnonzero(parts == part)
        values[here] = sets[part].read(within[here], [kind])[kind]
    return values


def tensors_of(values: Mapping[str, NDArray[Any]], start: int, stop: int) -> dict[str, Tensor]:
    """The columns of some of the rows as a batch has them, in float32."""
    return {name: torch.from_numpy(array[start:stop].astype(np.float32)) for name, array in values.items()}


@lru_cache(maxsize=64)
def open_set(uri: str, expected: str) -> OutputSet:
    """A set opened once in a process; raises ValueError if its hash is another."""
    found = OutputSet.open(uri)
    if found.hash != expected:
        raise UserError(f"teacher outputs {uri!r} changed: their hash is {found.hash}, expected {expected}")
    return found
