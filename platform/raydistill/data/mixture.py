"""Several corpora read as one, each as often as its weight says."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raydistill.data.corpus import Corpus, TokenizerInfo
from raydistill.data.lengths import Lengths
from raydistill.data.sealed_table import Use
from raydistill.draws import hash64, permutation
from raydistill.tasks._base import Column, Encoding
from raydistill.user_error import UserError

Rows = NDArray[np.int64]
ChosenRows = Callable[[int], Rows]
"""Tells of each shard the rows that are taken, counted from its first, ascending: read anew, not kept."""


@dataclass(frozen=True)
class CorpusPart:
    """A corpus and how often its rows enter an epoch."""

    uri: str
    """Folder of a finished corpus."""
    weight: float = 1.0
    """1 takes every row once, 0.5 a random half of each shard, 2.5 every row twice and a half a third time."""
    few_shot: int | None = None
    """Rows of each class that there are, None for all."""
    label_subset: tuple[str, ...] = ()
    """Names of the classes whose rows are read; labels are then counted among these, in the corpus's order. () for
    all."""
    seed: int = 0
    """Key of the draw of these rows."""
    name: str = field(default="", compare=False)
    """How a training calls it."""

    def __post_init__(self) -> None:
        if self.few_shot is not None and self.few_shot < 1:
            raise UserError(f"few_shot of corpus {self.uri!r} is {self.few_shot}; it must be at least 1")
        if self.label_subset:
            check_subset(self.label_subset)
        if self.few_shot is not None and self.weight % 1:
            raise UserError(
                f"the weight of corpus {self.uri!r} is {self.weight} beside few_shot; a fraction of few rows may be "
                "none, give a whole number"
            )
        if not 0 < self.weight < math.inf:
            raise UserError(f"the weight of corpus {self.uri!r} is {self.weight}; it must be a positive number")


def parts_of(corpus: str | Sequence[CorpusPart]) -> tuple[CorpusPart, ...]:
    """The parts that a single URI or a list of parts names; raises ValueError for an empty list."""
    parts = (CorpusPart(corpus),) if isinstance(corpus, str) else tuple(corpus)
    if not parts:
        raise UserError("corpus is an empty list; name at least one corpus")
    return parts


def open_mixture(corpus: str | Sequence[CorpusPart]) -> "Corpus | Mixture":
    """Open the parts as one corpus; a single whole part of weight 1 is that corpus itself, with its row ids.

    Raises ValueError when parts differ in tokenizer or task, or one is no corpus, contributes no row or has too few
    rows of a class.
    """
    parts = parts_of(corpus)
    corpora = [Corpus.open(part.uri) for part in parts]
    if len(parts) == 1 and parts[0] == CorpusPart(parts[0].uri, seed=parts[0].seed):
        return corpora[0]
    return Mixture(parts, corpora)


@lru_cache(maxsize=4)
def open_cached(parts: tuple[CorpusPart, ...], corpus_hash: str) -> "Corpus | Mixture":
    """A mixture opened once in a process; raises ValueError if its hash is not ``corpus_hash``."""
    corpus = open_mixture(parts)
    if corpus.hash != corpus_hash:
        names = ", ".join(repr(part.uri) for part in parts)
        raise UserError(f"corpus {names} changed: its hash is {corpus.hash}, expected {corpus_hash}")
    return corpus


class Mixture:
    """The rows of several corpora, numbered from 0: part after part, copy after copy, in the order of the shards.

    A copy of a row has a row id of its own, so its masks, partner and spans are drawn anew. The rows of a partial
    copy are a random choice from each shard that is the same in every epoch and for every seed.
    """

    def __init__(self, parts: Sequence[CorpusPart], corpora: Sequence[Corpus]) -> None:
        _check_equal(parts, corpora)
        self._corpora = list(corpora)
        self._shards = [
            shard
            for place, (part, corpus) in enumerate(zip(parts, corpora, strict=True))
            for shard in _shards_of(place, part, corpus)
        ]
        sizes = [shard.rows for shard in self._shards]
        self.shard_offsets: Rows = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        """First row of each copy of a shard, and the number of rows at the end."""
        self._weights = [part.weight for part in parts]
        self._labels = labels_of(parts[0], corpora[0])
        self._label_ids = [_label_ids(part, corpus) for part, corpus in zip(parts, corpora, strict=True)]
        identity = [_identity(part, corpus) for part, corpus in zip(parts, corpora, strict=True)]
        self.hash = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        """SHA-256 of the hashes and weights of the parts, and of what chooses their rows."""
        self._part_of = np.array([shard.place for shard in self._shards])
        self._starts = np.array([shard.start for shard in self._shards])
        self._partial = np.array([shard.rows < shard.all_rows for shard in self._shards])
        self._chosen = lru_cache(maxsize=64)(lambda shard: self._shards[shard].chosen())

    def __len__(self) -> int:
        return int(self.shard_offsets[-1])

    @property
    def tokenizer_uri(self) -> str:
        """Folder with the files of the tokenizer that made the ids of all parts."""
        return self._corpora[0].tokenizer_uri

    @property
    def pad_id(self) -> int:
        """Id that fills short rows."""
        return self._corpora[0].pad_id

    @property
    def tokenizers(self) -> tuple[TokenizerInfo, ...]:
        """As of a corpus; the rows of other parts than the first may be longer."""
        return self._corpora[0].tokenizers

    @cached_property
    def lengths(self) -> Lengths:
        """Length of each row, special tokens included."""
        return Lengths(self._lengths_of, self.shard_offsets)

    def _lengths_of(self, number: int) -> NDArray[np.int32]:
        shard = self._shards[number]
        lengths = self._corpora[shard.place].lengths.of_shard(shard.shard)
        return lengths[self._chosen(number)] if self._partial[number] else lengths

    @cached_property
    def encoding(self) -> Encoding:
        """What a task needs to know; token counts are sums of the parts' counts times their weights.

        They count the whole of a part of which few rows are read.
        """
        counts = sum(weight * corpus.token_counts for weight, corpus in zip(self._weights, self._corpora, strict=True))
        return replace(
            self._corpora[0].encoding,
            labels=self._labels,
            max_length=max(corpus.encoding.max_length for corpus in self._corpora),
            token_counts=np.rint(counts).astype(np.int64),
            num_rows=len(self),
        )

    def read_rows(self, rows: Sequence[int] | NDArray[np.integer]) -> list[NDArray[np.integer]]:
        """The token ids of these rows, in the order asked for."""
        parts, within = self.located(np.asarray(rows, dtype=np.int64))
        result: list[NDArray[np.integer]] = [np.empty(0, dtype=np.int32)] * len(parts)
        for part in np.unique(parts):
            places = np.flatnonzero(parts == part)
            for place, row in zip(places, self._corpora[part].read_rows(within[places]), strict=True):
                result[place] = row
        return result

    @property
    def columns(self) -> dict[str, Column]:
        """What each row has beside its ids, the same in all parts."""
        return self._corpora[0].columns

    def read_columns(self, rows: Sequence[int] | NDArray[np.integer]) -> pa.Table:
        """What these rows have beside their ids, in the order asked for."""
        parts, within = self.located(np.asarray(rows, dtype=np.int64))
        places = [np.flatnonzero(parts == part) for part in range(len(self._corpora))]
        pieces = [
            _relabelled(corpus.read_columns(within[here]), label_ids)
            for corpus, here, label_ids in zip(self._corpora, places, self._label_ids, strict=True)
        ]
        return pa.concat_tables(pieces).take(np.argsort(np.concatenate(places)))

    def begin(self, use: Use, *, oldest: Use) -> None:
        """As of a corpus."""
        for corpus in self._corpora:
            corpus.begin(use, oldest=oldest)

    def located(self, rows: Rows) -> tuple[Rows, Rows]:
        """The part of each row, and its number there."""
        shards = np.searchsorted(self.shard_offsets, rows, side="right") - 1
        within = rows - self.shard_offsets[shards]
        for shard in np.unique(shards[self._partial[shards]]):
            here = shards == shard
            within[here] = self._chosen(int(shard))[within[here]]
        return self._part_of[shards], self._starts[shards] + within


@dataclass(frozen=True, slots=True)
class _Shard:
    """One copy of a part's shard, or of some of its rows."""

    place: int
    """Number of the part."""
    shard: int
    """Number of the shard in its part."""
    start: int
    """First row of the shard in its part."""
    all_rows: int
    rows: int
    among: Callable[[], Rows] | None = None
    """Tells the rows that are taken from, counted from the shard's first, ascending; None for all."""

    def chosen(self) -> Rows:
        """The rows of a partial copy, counted from the shard's first, ascending."""
        among = np.arange(self.all_rows) if self.among is None else self.among()
        if self.rows == len(among):
            return among
        return among[np.sort(permutation("mixture rows", self.place, self.shard, size=len(among))[: self.rows])]


def _identity(part: CorpusPart, corpus: Corpus) -> list[Any]:
    drawn = [] if part.few_shot is None else [part.few_shot, part.seed]
    classes = [labels_of(part, corpus)] if part.label_subset else []
    return [corpus.hash, part.weight, *drawn, *classes]


def _shards_of(place: int, part: CorpusPart, corpus: Corpus) -> list[_Shard]:
    copies, fraction = divmod(part.weight, 1)
    whole = list(_whole_shards(place, corpus.shard_offsets.tolist(), chosen_rows(part, corpus)))
    partial = [replace(shard, rows=int(shard.rows * fraction + 0.5)) for shard in whole]
    shards = whole * int(copies) + [shard for shard in partial if shard.rows > 0]
    if not any(shard.rows for shard in shards):
        raise UserError(
            f"corpus {part.uri!r} has {len(corpus)} rows and weight {part.weight}, which leaves none; "
            "raise the weight or leave it out"
        )
    return shards


def _whole_shards(place: int, offsets: Sequence[int], chosen: ChosenRows | None) -> Iterator[_Shard]:
    """Each shard of a part with all its rows, or with those that are chosen of the part's, if there are any."""
    for number, (start, stop) in enumerate(pairwise(offsets)):
        if chosen is None:
            yield _Shard(place, number, start, stop - start, stop - start)
        elif num_chosen := len(chosen(number)):
            yield _Shard(place, number, start, stop - start, num_chosen, partial(chosen, number))


def chosen_rows(part: CorpusPart, corpus: Corpus) -> ChosenRows | None:
    """The rows of a part that is read by classes, None for a part with all its rows.

    Of each class these are all rows, or the ``few_shot`` ones with the least hashes of seed and row. Raises ValueError
    for a corpus without a class for each row, with too few rows of one, or with none of any.
    """
    if part.few_shot is None and not part.label_subset:
        return None
    if not has_classes(_own_labels(corpus), corpus.columns):
        key = f"few_shot is {part.few_shot}" if part.few_shot else f"label_subset is {', '.join(part.label_subset)}"
        raise UserError(f"{key}, but corpus {part.uri!r} has no class for each row; leave it out")
    classes = [_own_labels(corpus).index(name) for name in labels_of(part, corpus)]
    if part.few_shot is not None:
        return _few_of_shards(_few_rows(part, corpus, classes), corpus)

    def of_classes(shard: int) -> Rows:
        return np.flatnonzero(np.isin(_labels_of_shard(corpus, shard), classes))

    if not any(len(of_classes(shard)) for shard in range(len(corpus.shard_offsets) - 1)):
        raise UserError(
            f"label_subset is {', '.join(part.label_subset)}, but corpus {part.uri!r} has no row of these classes; "
            "name others, or binarize more text"
        )
    return of_classes


def _few_of_shards(rows: Rows, corpus: Corpus) -> ChosenRows:
    """Of few rows, ascending, those of each shard."""
    offsets = corpus.shard_offsets

    def of_shard(shard: int) -> Rows:
        first, stop = np.searchsorted(rows, offsets[shard : shard + 2])
        return rows[first:stop] - offsets[shard]

    return of_shard


def _few_rows(part: CorpusPart, corpus: Corpus, classes: Sequence[int]) -> Rows:
    """Of each class the rows with the least hashes, found shard by shard, ascending."""
    number = part.few_shot
    least: dict[int, Rows] = {one: np.empty(0, dtype=np.int64) for one in classes}
    for shard, first in enumerate(corpus.shard_offsets[:-1].tolist()):
        labels = _labels_of_shard(corpus, shard)
        for one, found in least.items():
            rows = np.concatenate([found, first + np.flatnonzero(labels == one)])
            least[one] = rows[np.argsort(hash64("few shot", part.seed, rows), kind="stable")][:number]
    for one, rows in least.items():
        if len(rows) < (number or 0):
            raise UserError(
                f"few_shot is {number}, but corpus {part.uri!r} has {len(rows)} rows of class "
                f"{_own_labels(corpus)[one]!r}; lower it"
            )
    return np.sort(np.concatenate(list(least.values())))


def _labels_of_shard(corpus: Corpus, shard: int) -> Rows:
    rows = np.arange(*corpus.shard_offsets[shard : shard + 2])
    labels: Rows = corpus.read_columns(rows).column("label").to_numpy()
    return labels


def labels_of(part: CorpusPart, corpus: Corpus) -> tuple[str, ...]:
    """Names of the classes that are read of a part, in the corpus's order; raises ValueError for one that it lacks."""
    return classes_of(_own_labels(corpus), part.label_subset, corpus=part.uri)


def _own_labels(corpus: Corpus) -> tuple[str, ...]:
    return tuple(corpus.manifest.encoding.get("labels") or ())


def _label_ids(part: CorpusPart, corpus: Corpus) -> Rows | None:
    """For each class of the corpus its number among those that are read, -1 for others; None where all are read."""
    if not part.label_subset:
        return None
    kept = labels_of(part, corpus)
    return np.array([kept.index(name) if name in kept else -1 for name in _own_labels(corpus)])


def _relabelled(table: pa.Table, label_ids: Rows | None) -> pa.Table:
    """A corpus's columns with labels that count the classes that are read."""
    if label_ids is None:
        return table
    place = table.column_names.index("label")
    return table.set_column(place, table.field(place), pa.array(label_ids[table.column(place).to_numpy()]))


def _check_equal(parts: Sequence[CorpusPart], corpora: Sequence[Corpus]) -> None:
    """Raise ValueError for the first part whose ids or rows mean something else than the first part's."""
    facts: list[tuple[str, Any]] = [
        ("tokenizer hash", lambda corpus: corpus.manifest.tokenizer.hash),
        ("teacher tokenizers with hashes", lambda corpus: [one.hash for one in corpus.tokenizers[1:]]),
        ("task", lambda corpus: corpus.manifest.encoding["name"]),
        ("columns", lambda corpus: corpus.columns),
    ]
    for name, fact in facts:
        first = fact(corpora[0])
        for part, corpus in zip(parts, corpora, strict=True):
            if fact(corpus) != first:
                raise UserError(
                    f"corpus {part.uri!r} has {name} {fact(corpus)!r}, corpus {parts[0].uri!r} has {first!r}; "
                    "corpora that are mixed must agree, so binarize one of them again"
                )
    labels = [labels_of(part, corpus) for part, corpus in zip(parts, corpora, strict=True)]
    for part, its in zip(parts, labels, strict=True):
        if its != labels[0]:
            raise UserError(
                f"corpus {part.uri!r} has the classes {', '.join(its)}, {parts[0].uri!r} has {', '.join(labels[0])}; "
                "corpora that are mixed must agree, so give both a label_subset or binarize one of them again"
            )


def check_subset(names: Sequence[str]) -> None:
    """Raise ValueError for names of classes that are too few or the same."""
    if len(names) < 2 or len(set(names)) != len(names):
        raise UserError(f"label_subset is {', '.join(names) or 'empty'}; give two or more different classes, or none")


def classes_of(labels: Sequence[str], subset: Sequence[str], *, corpus: str) -> tuple[str, ...]:
    """Those of a corpus's classes that a subset names, in the corpus's order; all of them for an empty subset.

    ``corpus`` names it in the message. Raises ValueError for a class that it lacks.
    """
    missing = [name for name in subset if name not in labels]
    if missing:
        its = f"its classes are {', '.join(labels)}" if labels else "it has scores"
        raise UserError(f"label_subset has {missing[0]!r}, which corpus {corpus!r} lacks; {its}")
    return tuple(name for name in labels if name in subset or not subset)


def has_classes(labels: Sequence[str], columns: Mapping[str, Column]) -> bool:
    """Whether rows of a corpus with these names of classes and these columns have a class each."""
    return bool(labels) and columns.get("label") == Column("int64")
