"""A small corpus of random ids, written as binarize writes one, for tests of whatever reads corpora."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydistill.data.corpus import Corpus, TokenizerInfo
from raydistill.data.corpus_writer import CorpusWriter
from raydistill.data.row_columns import table_of
from raydistill.tasks._base import Column

VOCABULARY = 61
SPECIAL_IDS = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
MAX_LENGTH = 40


def random_rows(num_rows: int, *, seed: int = 0, vocabulary: int = VOCABULARY) -> list[NDArray[np.int64]]:
    """Rows of 12 to 40 ids that start with CLS and end with SEP."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(12, MAX_LENGTH + 1, num_rows)
    return [np.array([2, *generator.integers(5, vocabulary, length - 2), 3]) for length in lengths]


def write_corpus(
    folder: Path | str,
    rows: Iterable[NDArray[np.int64]],
    *,
    rows_per_shard: int = 100,
    vocabulary: int = VOCABULARY,
    tokenizer_files: dict[str, bytes] | None = None,
    tokenizer_hash: str = "0" * 64,
    encoding: Mapping[str, Any] | None = None,
    columns: Mapping[str, Column] | None = None,
    values: Sequence[Mapping[str, Any]] = (),
    further: Sequence[tuple[TokenizerInfo, Mapping[str, bytes]]] = (),
) -> Corpus:
    """Write rows as a corpus, with the values of each where it has columns, and open it."""
    with CorpusWriter(str(folder), vocab_size=vocabulary, rows_per_shard=rows_per_shard, columns=columns) as writer:
        for number, row in enumerate(rows):
            table = table_of([values[number]], columns) if columns else None
            writer.add(row, np.array([len(row)], dtype=np.int32), values=table)
        tokenizer = TokenizerInfo(
            hash=tokenizer_hash,
            vocab_size=vocabulary,
            special_ids=SPECIAL_IDS,
            all_special_ids=sorted(SPECIAL_IDS.values()),
            max_length=MAX_LENGTH,
            files={name: hashlib.sha256(content).hexdigest() for name, content in (tokenizer_files or {}).items()},
        )
        files = tokenizer_files or {}
        writer.finish(
            tokenizer=tokenizer,
            tokenizer_files=files,
            encoding=encoding or {"name": "mlm"},
            sources=[],
            split={},
            further=further,
        )
    return Corpus.open(str(folder))
