"""Rows of a corpus as texts again, for people."""

from collections.abc import Mapping, Sequence

from raydistill.data.mixture import CorpusPart, open_mixture
from raydistill.data.storages import storage_at
from raydistill.models.load import load_tokenizer


def row_texts(parts: Sequence[CorpusPart], rows: Sequence[int]) -> Mapping[int, str]:
    """The texts that rows' ids stand for, without special tokens; raises ValueError where the corpus is not there."""
    corpus = open_mixture(parts)
    tokenizer = load_tokenizer(storage_at(corpus.tokenizer_uri).fetch())
    ids = corpus.read_rows(rows)
    return {row: tokenizer.decode(one.tolist(), skip_special_tokens=True) for row, one in zip(rows, ids, strict=True)}
