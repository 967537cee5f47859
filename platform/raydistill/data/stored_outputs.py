"""Stored teacher outputs beside the rows of a batch: which sets, and the columns that they become."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raydistill.data.sealed_table import Use
from raydistill.data.teacher_outputs import OutputSet
from raydistill.methods._base import stored_name
from raydistill.user_error import UserError

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
        found: dict[str, NDArray[Any]] = {}
        for number, sets in enumerate(self._sets):
            header = sets[0].header
            names = [name for kind in self._stored.kinds for name in header.columns_of(kind)]
            values = _read(sets, names, parts, within)
            if "cls_states" in values:
                layers = [header.layers.index(layer) for layer in self._stored.layers[number]]
                values["cls_states"] = values["cls_states"][:, layers]
            found |= {stored_name(number, name): array for name, array in values.items()}
        return found

    def begin(self, use: Use, *, oldest: Use) -> None:
        """What is read from now on is for this use, see ``Recent``."""
        for parts in self._sets:
            for one in parts:
                one.begin(use, oldest=oldest)


def _read(
    sets: Sequence[OutputSet], names: Sequence[str], parts: NDArray[np.int64], within: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """Columns of rows; of places an array of one array (m, ...) a row."""
    columns = {name: sets[0].header.columns[name] for name in names}
    found = {
        name: np.empty((len(within), *column.shape), dtype=column.dtype)
        if column.per == "row"
        else np.empty(len(within), dtype=object)
        for name, column in columns.items()
    }
    for part in np.unique(parts):
        here = np.flatnonzero(parts == part)
        for name, values in sets[part].read(within[here], names).items():
            if columns[name].per == "row":
                found[name][here] = values
                continue
            for place, value in zip(here.tolist(), values, strict=True):
                found[name][place] = value
    return found


def tensors_of(values: Mapping[str, NDArray[Any]], start: int, stop: int) -> dict[str, Tensor]:
    """The columns of some of the rows as a batch has them, in float32, and ids and positions in int64.

    Those of places stand end to end, with ``<name>_lengths`` (B,).
    """
    found: dict[str, Tensor] = {}
    for name, array in values.items():
        part = array[start:stop]
        if part.dtype == object:
            found[f"{name}_lengths"] = torch.tensor([len(row) for row in part])
            part = np.concatenate(list(part))
        found[name] = torch.from_numpy(part.astype(np.float32 if part.dtype.kind == "f" else np.int64))
    return found


@lru_cache(maxsize=64)
def open_set(uri: str, expected: str) -> OutputSet:
    """A set opened once in a process; raises ValueError if its hash is another."""
    found = OutputSet.open(uri)
    if found.hash != expected:
        raise UserError(f"teacher outputs {uri!r} changed: their hash is {found.hash}, expected {expected}")
    return found
