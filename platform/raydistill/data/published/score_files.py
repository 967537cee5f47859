"""Published files of teachers' scores: which of their rows are a corpus's, and whether they are scores of its teachers.

A file is a NumPy array (N, teachers): row i has the scores of row i of the train set as it is published, before any
split or shuffling, and column t those of teacher t, as ``models/dropout_scores.py`` has them. Source: lancopku/MUKI
@ 703fd17, ``teacher_weight_file``.
"""

import hashlib
import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydistill.data.corpus import Corpus
from raydistill.data.input_splits import interleave, is_validation
from raydistill.data.sources._base import Item
from raydistill.data.teacher_outputs import Values
from raydistill.user_error import UserError

KIND = "dropout_scores"
"""Column of teacher outputs that a file replaces."""
OPTION = "dropout_scores_file"
"""Option of a set whose scores are a file's."""
COMPARED_ROWS = 1000
"""Rows over which a file is compared with its teacher at a time."""
_STANDARD_ERRORS = 3.0
"""How far above 0 a rank correlation must be: chance alone is so once in 700 times."""
_ROUNDING = 1e-4
"""How far beyond 0 and 1 scores may lie that were stored in few digits."""

Scores = NDArray[np.float32]
Block = tuple[dict[str, int], Values]
"""A range of rows of a corpus, by ``corpus``, ``start`` and ``stop``, and what a teacher says of them."""


@dataclass(frozen=True)
class ScoreColumn:
    """The scores of one teacher in a file, as plain data."""

    path: str
    teacher: int
    """Number of the teacher, and of the column."""
    num_teachers: int

    @property
    def identity(self) -> dict[str, Any]:
        """What tells these scores from any others."""
        return {"sha256": sha256_of(self.path), "column": self.teacher}

    def of_corpora(self, corpora: Sequence[Corpus]) -> dict[int, Scores]:
        """Scores (rows,) by the number of the corpus, the parts of one; those without scores in the file left out."""
        parts = scores_of_parts(self.path, corpora, num_teachers=self.num_teachers)
        return {number: part[:, self.teacher] for number, part in enumerate(parts) if part is not None}


def sha256_of(path: str) -> str:
    """SHA-256 of a file, empty where there is none."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if Path(path).is_file() else ""


def read_scores(path: str, *, num_teachers: int) -> Scores:
    """The scores (N, teachers) in a file; raises ValueError for what holds none, or those of other many teachers.

    Nothing in the file is run.
    """
    key = f"dropout_scores_file is {path!r}"
    if not Path(path).is_file():
        raise UserError(f"{key}, which is not a file; give the path of a .npy file")
    try:
        found: Any = np.load(io.BytesIO(Path(path).read_bytes()), allow_pickle=False)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile):
        # What NumPy says names the option that would run what such a file holds.
        raise UserError(f"{key}, which holds no array of numbers; write one with numpy.save") from None
    if not isinstance(found, np.ndarray) or found.ndim != 2 or not np.issubdtype(found.dtype, np.floating):
        held = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else "an archive of arrays"
        raise UserError(f"{key}, which holds {held}; it must be one array (rows, teachers) of floats")
    if found.shape[1] != num_teachers:
        raise UserError(
            f"{key}, which has scores of {found.shape[1]} teachers, but teachers has {num_teachers}; give one column "
            "for each, in their order"
        )
    wrong = np.argwhere(~((found >= -_ROUNDING) & (found <= 1 + _ROUNDING)))
    if len(wrong):
        row, teacher = wrong[0].tolist()
        raise UserError(
            f"{key}, whose row {row} has {found[row, teacher]} for teacher {teacher}; scores lie between 0 and 1"
        )
    return found.clip(0, 1).astype(np.float32)


def scores_of_parts(path: str, parts: Sequence[Corpus], *, num_teachers: int) -> list[Scores | None]:
    """The scores (rows, teachers) of the rows of each part of one corpus, None for a part of another source.

    Raises ValueError where the file has not one row for each of the train set, and where it is not known which rows
    of the train set a part has.
    """
    scores = read_scores(path, num_teachers=num_teachers)
    rows = [rows_of_source(part, parts) for part in parts]
    expected = sum(len(own) for own in rows if own is not None)
    if len(scores) != expected:
        raise UserError(
            f"dropout_scores_file is {path!r}, which has {len(scores):,} rows, but the train set has {expected:,}; "
            "give scores of all its rows and of no others, in their order"
        )
    return [None if own is None else scores[own] for own in rows]


def is_of_train_set(corpus: Corpus) -> bool:
    """Whether rows of a corpus come from the train set, and not from a source that was held out as a whole."""
    split = corpus.manifest.split
    return split.get("part") == "train" or not isinstance(split.get("validation"), Mapping)


def rows_of_source(corpus: Corpus, parts: Sequence[Corpus]) -> NDArray[np.int64] | None:
    """The number of each row of a corpus in the unsplit train set; None for a validation part of another source.

    ``parts`` are those that the train set was split into and this one. Raises ValueError where rows were left out or
    taken more than once, or the split is not known.
    """
    split = corpus.manifest.split
    if "validation" not in split or not corpus.manifest.sources:
        raise _unknown(corpus, "it was not made by binarize; binarize the train set")
    if not is_of_train_set(corpus):
        return None
    _check_whole(corpus)
    if isinstance(split["validation"], Mapping) or not split["validation"]:
        return np.arange(len(corpus))
    [source] = corpus.manifest.sources
    if len(source.fingerprints) > 1:
        raise _unknown(
            corpus,
            f"a share was held out of a source in {len(source.fingerprints)} pieces; hold out a source of its own",
        )
    [name] = source.fingerprints
    [unit] = interleave([[Item(name, "")]], [1.0], validation=split["validation"])
    apart = is_validation(unit, np.arange(sum(map(len, parts))), seed=split["seed"])
    rows = np.flatnonzero(apart == (split["part"] != "train"))
    if len(rows) != len(corpus):
        raise _unknown(corpus, f"it has {len(corpus)} rows, its split {len(rows)}; binarize both parts again")
    return rows


def _check_whole(corpus: Corpus) -> None:
    """Raise ValueError unless each text of one source became one row."""
    sources, counts = corpus.manifest.sources, dict(corpus.manifest.counts)
    if len(sources) > 1 or sources[0].weight != 1:
        raise _unknown(corpus, "its sources are mixed or weighted; binarize the train set alone, with weight 1")
    texts = counts.pop("texts", 0)
    if counts or texts != len(corpus):
        reasons = ", ".join(f"{number} {reason}" for reason, number in counts.items()) or "none dropped"
        raise _unknown(
            corpus, f"{texts} texts became {len(corpus)} rows ({reasons}); mend the source so that none is left out"
        )


def _unknown(corpus: Corpus, reason: str) -> UserError:
    return UserError(
        f"dropout_scores_file follows the rows of the train set, which are not known for {corpus.uri!r}: {reason}"
    )


def replaced(
    blocks: Iterable[Block], items: Sequence[Mapping[str, int]], scores: Mapping[int, Scores], *, teacher: int
) -> Iterator[Block]:
    """The blocks with a file's scores in place of those of one pass, held back until the two agree.

    ``items`` are all blocks' ranges, ``scores`` (rows,) the file's by the number of the corpus; blocks of others are
    handed on as they are. Raises ValueError where the file's scores go with the teacher's no better than chance: over
    ``COMPARED_ROWS`` rows, at the end over the last ones. Fewer rows, which an interrupted call has left, are taken,
    since those before them agreed.
    """
    held: list[Block] = []
    seen, waiting = np.empty((2, 0), dtype=np.float32), 0
    for item, values in blocks:
        if item["corpus"] not in scores:
            yield item, values
            continue
        of_file = scores[item["corpus"]][item["start"] : item["stop"]]
        seen = np.concatenate([seen, [of_file, values[KIND]]], axis=1)
        waiting += len(of_file)
        held.append((item, {**values, KIND: of_file}))
        if waiting >= COMPARED_ROWS:
            _compare(seen[:, -waiting:], teacher)
            yield from held
            held, waiting, seen = [], 0, seen[:, -COMPARED_ROWS:]
    num_rows = sum(item["stop"] - item["start"] for item in items if item["corpus"] in scores)
    is_rest = num_rows < min(COMPARED_ROWS, sum(map(len, scores.values())))
    if waiting and not is_rest:
        _compare(seen[:, -COMPARED_ROWS:], teacher)
    yield from held


def _compare(pairs: NDArray[np.float32], teacher: int) -> None:
    """Raise ValueError where scores (2, rows), a file's and those of one pass, are not ranked alike."""
    correlation, rows = rank_correlation(*pairs), pairs.shape[1]
    if not correlation * np.sqrt(rows - 1) > _STANDARD_ERRORS:
        raise UserError(
            f"dropout_scores_file does not fit teachers.{teacher}: over {rows:,} rows its scores have a rank "
            f"correlation of {correlation:.2f} with those of one pass, which may be chance; check that its rows are in "
            "the order of the train set, its columns in that of teachers, and the checkpoints those it was made with"
        )


def rank_correlation(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Spearman's correlation of two arrays (n,), from -1 to 1; 0 where one of them has a single value."""
    from scipy.stats import spearmanr

    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(spearmanr(first, second).statistic)
