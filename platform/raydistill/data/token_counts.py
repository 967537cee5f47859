"""Files that tell how often each token id occurs in some text: pickled lists, as they were published, and NumPy's."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydistill.data.published.pickled_lists import read_list
from raydistill.data.sources import _files
from raydistill.data.sources._base import Item
from raydistill.user_error import UserError, placed

NUMPY = ".npy"


def counts_file(files: _files.FileSet, *, value: str) -> Item:
    """The only file of a set, which ``token_counts`` names by ``value``; raises ValueError for none or several."""
    found = _files.list_items(files)
    if len(found) > 1:
        raise UserError(f"token_counts is {value!r}, which matches {len(found)} files; give one")
    return found[0]


def read_counts(files: _files.FileSet, *, value: str) -> NDArray[np.int64]:
    """The occurrences of each id, (ids,): an array in a ``.npy`` file, else a pickled list.

    Nothing in a pickle is ever executed. Raises ValueError for a file that holds anything else.
    """
    item = counts_file(files, value=value)
    with _files.open_item(files, item) as stream:
        counts = _array(stream, value) if item.name.endswith(NUMPY) else list(named(read_list(stream), item.name))
    if not all(isinstance(count, int) and 0 <= count < 2**63 for count in counts):
        raise UserError(f"token_counts is {value!r}, whose list holds something other than counts")
    return np.array(counts, dtype=np.int64)


def read_counts_of(path: str, *, vocab_size: int) -> NDArray[np.int64]:
    """Those in a file of a user's own; raises ValueError for other ids than those of a vocabulary."""
    counts = read_counts(_files.FileSet(path=path), value=path)
    if len(counts) != vocab_size:
        raise UserError(
            f"token_counts is {path!r}, which counts {len(counts)} ids; the tokenizer has {vocab_size}; count the ids "
            "of this tokenizer"
        )
    return counts


def named(values: Iterator[Any], name: str) -> Iterator[Any]:
    """The same values; a mistake in them gets the file's name."""
    with placed(name):
        yield from values


def _array(stream: Any, value: str) -> list[Any]:
    try:
        found = np.load(stream, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"token_counts is {value!r}, which is not an array of numbers ({error})") from None
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise UserError(
            f"token_counts is {value!r}, an array of shape {found.shape} and type {found.dtype}; give one count per id"
        )
    return list(found.tolist())
