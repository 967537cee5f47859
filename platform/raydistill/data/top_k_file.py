"""Likeliest ids that others captured of a causal model: a Parquet file that becomes a set of stored teacher outputs.

A line of the file is a row of the corpus, the training part's first, each part's from 0 on:

============== ================= ================================================================
``part``       string            ``train`` or ``validation``
``row``        integer           number of the row in its part
``input_ids``  list of integers  the row's m tokens, by which another tokenizer's logits are told
``ids``        list of lists     for each token its k likeliest next ids, the likeliest first
``log_probs``  list of lists     natural logarithms of their probabilities over the vocabulary
============== ================= ================================================================

Probabilities are those at the capture's temperature. What is missing to 1 is the mass of all other ids.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raydistill.data.corpus import Corpus
from raydistill.data.teacher_outputs import Values
from raydistill.user_error import UserError

OPTION = "top_k_file"
"""Option of a stage that names the file, and of a set that is of one."""
_COLUMNS = {"part": 0, "row": 0, "input_ids": 1, "ids": 2, "log_probs": 2}
"""By name how many lists are around each column's values."""
_LINES = 64
"""Lines that are read at once."""
_MOST_ABOVE_ONE = 1e-2
"""How far probabilities may add up to more than 1 that were rounded to 8 bits of mantissa."""
_LEAST = float(np.finfo(np.float16).min)


class _Row(NamedTuple):
    part: str
    row: int
    input_ids: NDArray[np.int64]
    ids: NDArray[np.int64]
    """(m, k)"""
    log_probs: NDArray[np.float64]


@dataclass(frozen=True)
class TopKFile:
    """A file and what it has to hold, as plain data."""

    path: str
    top_k: int
    vocab_size: int
    parts: tuple[str, ...] = ()
    """Names of the parts of the corpora that it is asked for."""

    def check(self, rows: int | None) -> None:
        """Refuse what is no such file, or of another number of rows where that is known; reads no row."""
        key = f"{OPTION} is {self.path!r}"
        if not Path(self.path).is_file():
            raise UserError(f"{key}, which is not a file; give the path of a Parquet file")
        try:
            metadata, schema = pq.read_metadata(self.path), pq.read_schema(self.path)
        except (pa.ArrowException, OSError):
            raise UserError(f"{key}, which is not a Parquet file; write one with pyarrow or pandas") from None
        for name, depth in _COLUMNS.items():
            found = schema.field(name).type if name in schema.names else None
            if found is None or _depth(found) != depth:
                what = "no column" if found is None else f"{found} in column"
                raise UserError(
                    f"{key}, which has {what} {name!r}; its columns are part, row, input_ids, ids and log_probs, the "
                    "last two with a list per token"
                )
        if rows is not None and metadata.num_rows != rows:
            raise UserError(
                f"{key}, which has {metadata.num_rows:,} rows, but the corpus has {rows:,}; give each row of train "
                "and validation once"
            )

    def blocks(self, items: Sequence[Mapping[str, int]], corpora: Sequence[Corpus]) -> Iterator[Values]:
        """What the file says of ranges of rows, ``corpus``, ``start`` and ``stop``, in their order.

        Raises UserError, of one line, for the first row that is not the one that is due or holds no such logits.
        """
        lines = self._rows()
        place = 0
        starts = np.cumsum([0, *map(len, corpora)])
        for item in items:
            corpus, part = corpora[item["corpus"]], self.parts[item["corpus"]]
            first = int(starts[item["corpus"]]) + item["start"]
            # Those of shards that an earlier call finished.
            for _ in islice(lines, first - place):
                pass
            token_ids = corpus.read_rows(range(item["start"], item["stop"]))
            rows = []
            for number, ids in zip(range(item["start"], item["stop"]), token_ids, strict=True):
                line = next(lines, None)
                self._check_key(line, part, number)
                assert line is not None
                self._check_row(line, ids)
                rows.append(_named(line))
            place = first + len(rows)
            yield {name: [row[name] for row in rows] for name in rows[0]}

    def _rows(self) -> Iterator[_Row]:
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(_LINES, columns=list(_COLUMNS)):
                columns = {name: batch.column(name) for name in _COLUMNS}
                for number in range(len(batch)):
                    yield self._row({name: column[number] for name, column in columns.items()})

    def _row(self, cells: Mapping[str, Any]) -> _Row:
        """One line; raises UserError where its lists are missing or not all of ``top_k`` values."""
        where = f"row {cells['row']} of {cells['part']}"
        for name, cell in cells.items():
            if not cell.is_valid:
                raise self._fault(f"{where} has no {name}")
        both = []
        for name in ("ids", "log_probs"):
            tokens = cells[name].values
            sizes = tokens.value_lengths().to_numpy(zero_copy_only=False)
            wrong = sizes[sizes != self.top_k]
            if len(wrong) or tokens.flatten().null_count:
                size = "missing" if not len(wrong) else f"{wrong[0]:g}"
                raise self._fault(f"{where} has {size} {name} for a token, top_k is {self.top_k}")
            both.append(tokens.flatten().to_numpy(zero_copy_only=False).reshape(-1, self.top_k))
        input_ids = cells["input_ids"].values.to_numpy(zero_copy_only=False)
        return _Row(cells["part"].as_py(), cells["row"].as_py(), input_ids, both[0], both[1].astype(np.float64))

    def _check_key(self, line: _Row | None, part: str, number: int) -> None:
        if line is None:
            raise self._fault(f"row {number} of {part} is missing")
        if (line.part, line.row) != (part, number):
            raise self._fault(
                f"it has row {line.row} of {line.part} where row {number} of {part} belongs; each row is there once, "
                "those of train first, in their order"
            )

    def _check_row(self, line: _Row, token_ids: NDArray[np.integer]) -> None:
        where = f"row {line.row} of {line.part}"
        if len(line.ids) != len(token_ids) or len(line.log_probs) != len(token_ids):
            raise self._fault(
                f"{where} has ids of {len(line.ids)} tokens and log_probs of {len(line.log_probs)}, the corpus "
                f"{len(token_ids)} tokens"
            )
        if not np.array_equal(line.input_ids, token_ids):
            raise self._fault(f"the tokens of {where} are others than the corpus's: its tokenizer or text is another")
        if line.ids.min() < 0 or line.ids.max() >= self.vocab_size:
            beyond = line.ids.min() if line.ids.min() < 0 else line.ids.max()
            raise self._fault(f"{where} has the id {beyond}, the teacher's vocabulary {self.vocab_size} ids")
        if (np.diff(np.sort(line.ids, axis=1), axis=1) == 0).any():
            raise self._fault(f"{where} has an id twice for one token")
        if not (line.log_probs <= 0).all():
            worst = line.log_probs[~(line.log_probs <= 0)][0]
            raise self._fault(f"{where} has the log-probability {worst:g}; none is above 0")
        if (np.diff(line.log_probs, axis=1) > 0).any():
            raise self._fault(f"{where} has ids that are not sorted, the likeliest first")
        most = np.exp(line.log_probs).sum(axis=1).max()
        if most > 1 + _MOST_ABOVE_ONE:
            raise self._fault(f"{where} has probabilities of one token that add up to {most:.4g}")

    def _fault(self, what: str) -> UserError:
        return UserError(f"{OPTION} is {self.path!r}, but {what}")


def _depth(kind: pa.DataType) -> int | None:
    """How many lists are around a column's values; None where these are none that it may have."""
    depth = 0
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind, depth = kind.value_type, depth + 1
    is_value = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_string(kind)
    return depth if is_value else None


def _named(line: _Row) -> dict[str, NDArray[Any]]:
    """The columns of a set; what is left of a token's mass is the tail's, none where rounding took more."""
    with np.errstate(divide="ignore"):
        tails = np.log(np.clip(1 - np.exp(line.log_probs).sum(axis=1), 0, None))
    return {
        "top_k_ids": line.ids,
        "top_k_log_probs": line.log_probs.clip(min=_LEAST),
        "top_k_log_tails": np.where(np.isinf(tails), tails, tails.clip(min=_LEAST)),
    }
