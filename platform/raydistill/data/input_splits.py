"""Several sources as one list of work: what is read when, which texts enter which part of a corpus, and how encoded."""

import dataclasses
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raydistill.config.named import EncodingSpec, SourceSpec
from raydistill.data.sources._base import Item
from raydistill.draws import uniform
from raydistill.user_error import UserError

PARTS = TRAIN, VALIDATION = ("train", "validation")
"""Parts of a corpus in the order of their numbers."""


@dataclass(frozen=True)
class WeightedSource:
    """A source and how often its texts enter."""

    source: SourceSpec
    weight: float = 1.0
    """1 takes every text once, 0.5 a random half, 2.5 every text twice and a random half a third time."""

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise UserError(f"the weight of source {self.source.name} is {self.weight}; give a positive number")


@dataclass(frozen=True)
class InputSplit:
    """One reading of an item; an item is read as often as its source's weight says."""

    number: int
    """Place among all splits."""
    source: int
    """Number of the item's source."""
    share: float
    """Share of the item's texts that enter in this reading."""
    item: Item
    validation: float = 0.0
    """Share of those texts that are held out; 1 in a source that is held out as a whole."""
    drawn_as: str = ""
    """The item's key below the folder that all files of a corpus share: its texts are drawn by this, so that a corpus
    that lies elsewhere gives the same rows. Empty where nothing is drawn."""

    @property
    def parts(self) -> tuple[int, ...]:
        """The parts of the corpus that texts of the split go to: 0 for training, 1 for what is held out."""
        return (*([0] if self.validation < 1 else []), *([1] if self.validation > 0 else []))


class Place(NamedTuple):
    """A block of texts: the number of the input split it belongs to, and its own number there."""

    split: int
    block: int


def interleave(
    items: Sequence[Sequence[Item]], weights: Sequence[float], *, validation: float = 0.0
) -> list[InputSplit]:
    """All readings of the items of each source, mixed so that every stretch has about the same share of each source.

    A source's items stay in their order, and each reading of a source starts when the one before it is over, so that
    copies of a text lie far apart. One source of weight 1 gives its items as they are. ``validation`` is the share of
    their texts that is held out.
    """
    readings = []
    for source, (own, weight) in enumerate(zip(items, weights, strict=True)):
        copies, fraction = divmod(weight, 1)
        shares = [1.0] * int(copies) + [fraction] * (fraction > 0)
        length = sum(shares)
        for copy, share in enumerate(shares):
            for place, item in enumerate(own):
                # Where in the source's whole stretch, from 0 to 1, the middle of this item lies.
                middle = (copy + share * (place + 0.5) / len(own)) / length
                readings.append((middle, source, share, item))
    readings.sort(key=lambda reading: reading[:2])
    folder = _common_folder(item.name for own in items for item in own)
    return [
        InputSplit(number, source, share, item, validation, item.key.removeprefix(folder))
        for number, (_, source, share, item) in enumerate(readings)
    ]


def _common_folder(names: Iterable[str]) -> str:
    """The folder, with its slash, that files with absolute paths or URIs share; empty without such files."""
    folders = [name.split("/")[:-1] for name in names if name.startswith("/") or "://" in name]
    if not folders:
        return ""
    shared = takewhile(lambda parts: parts[0] == parts[1], zip(min(folders), max(folders), strict=False))
    return "".join(f"{part}/" for part, _ in shared)


def validation_splits(items: Sequence[Item], *, after: Sequence[InputSplit], source: int) -> list[InputSplit]:
    """One reading of each item of a source, number ``source``, that is held out as a whole, after other splits."""
    return [InputSplit(len(after) + place, source, 1.0, item, validation=1.0) for place, item in enumerate(items)]


def entering(split: InputSplit, numbers: NDArray[np.int64], *, seed: int) -> NDArray[np.bool_]:
    """Which of an item's texts, given by their numbers in it, enter in this reading."""
    if split.share >= 1:
        return np.ones(len(numbers), dtype=bool)
    return uniform("source weight", seed, split.source, _key(split), numbers) < split.share


def is_validation(split: InputSplit, numbers: NDArray[np.int64], *, seed: int) -> NDArray[np.bool_]:
    """Which of an item's texts are held out: the same in every reading, also by a source that has the item too."""
    return uniform("held out", seed, _key(split), numbers) < split.validation


def _key(split: InputSplit) -> int:
    return zlib.crc32(split.drawn_as.encode())


def of_part(encoding: EncodingSpec, part: int) -> EncodingSpec:
    """The encoding of the rows of a part, by its number; another than that of the corpus where labels are of one part.

    The ``EncodeConfig`` of a task whose rows may lack labels has a method of the same name for that.
    """
    of_config = getattr(encoding.config, "of_part", None)
    return encoding if of_config is None else dataclasses.replace(encoding, config=of_config(PARTS[part]))


def is_unlabelled(encoding: Mapping[str, Any]) -> bool:
    """Whether rows of a part have no labels, given the section of its encoding."""
    return encoding.get("labelled") == "none"


def unlabelled_parts(encoding: EncodingSpec) -> tuple[str, ...]:
    """The parts of a corpus whose rows have no labels."""
    return tuple(part for number, part in enumerate(PARTS) if is_unlabelled(of_part(encoding, number).dump()))
