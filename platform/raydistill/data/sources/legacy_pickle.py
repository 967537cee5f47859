"""Rows of token ids in the published ``binarized_text.*.pickle`` files; nothing in a pickle is ever executed."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raydistill.data.published.pickled_lists import read_list
from raydistill.data.sources import _files
from raydistill.data.sources._base import Example, Item, Placed, Where
from raydistill.data.token_counts import counts_file, named, read_counts
from raydistill.user_error import UserError

_ROWS_PER_COUNT = 1_000


@dataclass(frozen=True)
class Config(_files.FileSet):
    """Which files; each is a pickled list of one-dimensional integer arrays, special tokens included.

    The tokenizer has to be the one that made them.
    """

    token_counts: str | None = None
    """A file (or member of the package) with the published token counts of a single pickle: a pickled list with the
    number of occurrences of each id. Counts that do not agree with the rows are an error."""


def is_listed_early(config: Config) -> bool:
    """Files are listed in the preflight already."""
    return True


def items(config: Config) -> list[Item]:
    """The files in the order of their names; raises ValueError when there are none, or several with one count."""
    found = _files.list_items(config)
    if config.token_counts is not None and len(found) > 1:
        raise UserError(f"token_counts belongs to one pickle, but {len(found)} files match; read them one by one")
    if config.token_counts is not None:
        counts_file(_counts_files(config), value=config.token_counts)
    return found


def read(config: Config, item: Item) -> Iterator[Example]:
    """The rows of one file; raises ValueError, naming it, for one that holds anything else or has other counts."""
    counts = None
    if config.token_counts is not None:
        counts = _Counts(read_counts(_counts_files(config), value=config.token_counts))
    with _files.open_item(config, item) as stream:
        for number, row in enumerate(named(read_list(stream), item.name)):
            if not isinstance(row, np.ndarray):
                raise UserError(f"{item.name} holds {str(row)[:40]!r} in place {number}, which is not an array")
            if counts is not None:
                counts.add(row)
            yield Placed({"input_ids": row}, Where(item.name, f"place {number}"))
    if counts is not None and (problem := counts.problem()):
        raise UserError(
            f"token_counts is {config.token_counts!r}, but {item.name} {problem}; give the counts of this file"
        )


class _Counts:
    """Occurrences of ids, compared with those that are expected."""

    def __init__(self, expected: NDArray[np.int64]) -> None:
        self._expected = expected
        self._left = expected.copy()
        self._rows: list[NDArray[np.integer]] = []
        self._too_large = -1

    def add(self, row: NDArray[np.integer]) -> None:
        """Count a row's ids."""
        self._rows.append(row)
        if len(self._rows) == _ROWS_PER_COUNT:
            self._count()

    def problem(self) -> str | None:
        """How the rows differ from what was expected, None when they do not."""
        self._count()
        if self._too_large >= 0:
            return f"holds id {self._too_large} and the counts end at {len(self._expected) - 1}"
        wrong = np.flatnonzero(self._left)
        if not len(wrong):
            return None
        number = self._expected[wrong[0]] - self._left[wrong[0]]
        return f"holds id {wrong[0]} {number} times and not {self._expected[wrong[0]]}"

    def _count(self) -> None:
        ids = np.concatenate([np.empty(0, np.int64), *self._rows]).astype(np.int64)
        is_known = (ids >= 0) & (ids < len(self._left))
        self._too_large = max([self._too_large, *ids[~is_known].tolist()])
        self._left -= np.bincount(ids[is_known], minlength=len(self._left))
        self._rows = []


def _counts_files(config: Config) -> _files.FileSet:
    if config.path is not None:
        return _files.FileSet(path=config.token_counts)
    return _files.FileSet(package=config.package, sha256=config.sha256, members=config.token_counts)
