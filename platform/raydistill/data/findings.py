"""What became of a corpus's examples: how many were left out and why, and what of the others a user should look at."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raydistill.data.corpus import Corpus
from raydistill.data.sources._base import DROPPED, Placed, Where
from raydistill.data.sources._lines import newlines
from raydistill.data.storage import Folder
from raydistill.tasks._base import CUTS, ROW_REASONS

LONG_TEXT = "long text"
LONG_CHARACTERS = 1_000_000
_WARNED_SHARE = 0.01
_MOST_HASHES = 4_000_000
_ROWS_PER_READ = 10_000
_LABEL_COLUMNS = ("label", "tag")

Met = tuple[str, Where]
"""What was met, why an example was left out or ``LONG_TEXT``, and where."""


class Finding(NamedTuple):
    """One line for the user, and the figure that is tracked for it, if there is one."""

    text: str
    is_warning: bool
    metric: str = ""
    number: int = 0


def met_in(
    examples: Sequence[Mapping[str, Any]], reasons: Sequence[str | None], example_of: Sequence[int]
) -> list[Met]:
    """Every long text of a block, and the first example of each reason.

    ``reasons`` are those of the rows of the examples that the source kept; ``example_of`` has, for as many rows as it
    is known of, the number of the example among these.
    """
    kept = [example for example in examples if DROPPED not in example]
    dropped = [(example[DROPPED], example) for example in examples if DROPPED in example]
    of_rows = [(reason, kept[place]) for reason, place in zip(reasons, example_of, strict=False) if reason]
    first: dict[str, Any] = {}
    for reason, example in (*dropped, *of_rows):
        first.setdefault(reason, example)
    long = [(LONG_TEXT, example) for example in kept if characters(example) > LONG_CHARACTERS]
    return [(reason, example.where) for reason, example in (*first.items(), *long) if isinstance(example, Placed)]


def characters(example: Mapping[str, Any]) -> int:
    """Length of an example's longest text."""
    return max((len(value) for value in example.values() if isinstance(value, str)), default=0)


class Findings:
    """Collects what is met while a corpus is made; a run that goes on after an interruption meets the rest alone."""

    def __init__(self) -> None:
        self._first: dict[str, Where] = {}
        self._num_long = 0
        self._seen: dict[str, _Hashes] = {}

    def meet(self, met: Sequence[Met]) -> None:
        """Keep the first of each kind."""
        for reason, where in met:
            self._first.setdefault(reason, where)
            self._num_long += reason == LONG_TEXT

    def count(self, part: str, ids: NDArray[np.integer], lengths: NDArray[np.integer]) -> None:
        """Rows of a part, end to end, that are compared with each other."""
        self._seen.setdefault(part, _Hashes()).add(ids, lengths)

    def told(self, counts: Mapping[str, int], rows: int, corpora: Mapping[str, Corpus]) -> list[Finding]:
        """What is to be told of ``rows`` that were kept in all and of ``counts`` of texts and of reasons."""
        reasons = Counter({reason: number for reason, number in counts.items() if reason not in ("texts", *CUTS)})
        of_rows = rows + sum(number for reason, number in reasons.items() if reason in ROW_REASONS)
        of_examples = counts.get("texts", 0) + reasons.total() - (of_rows - rows)
        found = [
            self._left_out(reason, number, *((of_rows, "rows") if reason in ROW_REASONS else (of_examples, "examples")))
            for reason, number in reasons.items()
        ]
        for cut in CUTS:
            if number := counts.get(cut, 0):
                text = f"too long: {_share(number, rows, 'rows')}, {cut}{self._example(cut)}"
                found.append(Finding(text, number > _WARNED_SHARE * rows, f"too_long/{cut.replace(' ', '_')}", number))
        if self._num_long:
            text = (
                f"texts of over 1 MB: {self._num_long}{self._example(LONG_TEXT)}; unit: line makes a text of each "
                "line, and plain text of over 16 MB is several texts"
            )
            found.append(Finding(text, True, "long_texts", self._num_long))
        for part, seen in self._seen.items():
            found += seen.told(part)
        for part, corpus in corpora.items():
            found += _of_classes(part, corpus)
        return found

    def _left_out(self, reason: str, number: int, total: int, what: str) -> Finding:
        text = f"left out: {_share(number, total, what)}, {reason}{self._example(reason)}"
        metric = f"left_out/{reason.replace(' ', '_')}"
        return Finding(text, number > _WARNED_SHARE * total, metric, number)

    def _example(self, reason: str) -> str:
        where = self._first.get(reason)
        return "" if where is None else f", the first at {written(where)}"


def written(where: Where) -> str:
    """A place in words; of a part of a file the lines before it are counted now."""
    if not where.number:
        return f"{where.name} {where.unit}"
    before = 0
    if where.before:
        with Folder(where.name).open_input("") as stream:
            before = newlines(stream, where.before)
    return f"{where.name} {where.unit} {before + where.number}"


def _share(number: int, total: int, what: str) -> str:
    return f"{number} of {total} {what} ({100 * number / total:.2g} %)"


class _Hashes:
    """Hashes of rows' tokens; of very many rows those of a share that is chosen by the hash."""

    def __init__(self) -> None:
        self._multipliers = np.empty(0, dtype=np.uint64)
        self._kept: list[NDArray[np.uint64]] = []
        self._bits = 0
        self._rows = 0

    def add(self, ids: NDArray[np.integer], lengths: NDArray[np.integer]) -> None:
        if not len(lengths):
            return
        if int(lengths.max()) > len(self._multipliers):
            drawn = np.random.default_rng(0).integers(2**63, size=int(lengths.max()), dtype=np.uint64)
            self._multipliers = 2 * drawn + np.uint64(1)
        starts = np.cumsum(lengths, dtype=np.int64) - lengths
        places = np.arange(len(ids)) - np.repeat(starts, lengths)
        # Overflow is meant: sums are those of 64 bits. One more, so that id 0 counts.
        weighed = (ids.astype(np.uint64) + np.uint64(1)) * self._multipliers[places]
        self._kept.append(self._chosen(np.add.reduceat(weighed, starts)))
        self._rows += len(lengths)
        while sum(map(len, self._kept)) > _MOST_HASHES:
            self._bits += 1
            self._kept = [self._chosen(np.concatenate(self._kept))]

    def _chosen(self, hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
        return hashes[hashes % np.uint64(2**self._bits) == 0]

    def told(self, part: str) -> Iterator[Finding]:
        hashes = np.concatenate([np.empty(0, dtype=np.uint64), *self._kept])
        if not len(hashes):
            return
        number = round(self._rows * (1 - len(np.unique(hashes)) / len(hashes)))
        if number:
            about = "about " if self._bits else ""
            text = f"{part}: {about}{_share(number, self._rows, 'rows')} equal an earlier one"
            yield Finding(text, number > _WARNED_SHARE * self._rows, f"equal_rows/{part}", number)


def _of_classes(part: str, corpus: Corpus) -> Iterator[Finding]:
    """Classes without rows, or a single one with all."""
    names = corpus.encoding.labels
    column = next((name for name in _LABEL_COLUMNS if name in corpus.columns), None)
    if not names or column is None:
        return
    counts = np.zeros(len(names), dtype=np.int64)
    for start in range(0, len(corpus), _ROWS_PER_READ):
        values = corpus.read_columns(np.arange(start, min(start + _ROWS_PER_READ, len(corpus)))).column(column)
        ids = (values.combine_chunks().flatten() if corpus.columns[column].per == "token" else values).to_numpy()
        counts += np.bincount(ids[ids >= 0], minlength=len(names))
    with_rows = [name for name, count in zip(names, counts, strict=True) if count]
    without = [name for name in names if name not in with_rows]
    if len(with_rows) == 1:
        yield Finding(f"{part}: all rows are of the class {with_rows[0]!r}, which teaches and tells nothing", True)
    elif without:
        yield Finding(f"{part}: no row is of the class {', '.join(map(repr, without))}", True)
