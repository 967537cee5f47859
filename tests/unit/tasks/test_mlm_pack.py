"""Texts that are joined and cut into rows of one length, as the published evaluation of perplexity joins them."""

import functools
import operator

import numpy as np
import pytest

from raydistill.config.named import EncodingSpec
from raydistill.tasks import mlm
from toys.words import make_tokenizer

PACKED = mlm.EncodeConfig(max_length=16, pack=True)


def group_texts(texts: list[list[int]], max_seq_length: int) -> list[list[int]]:
    """The function of that name in ``run_mlm.py`` of frankaging/Causal-Distill @ 473600b, on token ids alone."""
    concatenated = functools.reduce(operator.iadd, texts, [])
    total_length = len(concatenated)
    if total_length >= max_seq_length:
        total_length = (total_length // max_seq_length) * max_seq_length
    return [concatenated[i : i + max_seq_length] for i in range(0, total_length, max_seq_length)]


def kept_rows(texts: list[str]) -> list[list[int]]:
    tokenizer = make_tokenizer()
    rows = mlm.cut([{"text": text} for text in texts], tokenizer, PACKED)
    reasons = mlm.drop_reasons(rows, tokenizer, PACKED)
    assert set(reasons) <= {None, "short"}
    return [row.tolist() for row, reason in zip(rows, reasons, strict=True) if reason is None]


@pytest.mark.parametrize("num_texts", [1, 2, 3, 7, 40])
def test_packed_rows_are_those_of_the_published_evaluation(num_texts: int) -> None:
    generator = np.random.default_rng(num_texts)
    # Empty lines stay, as CLS and SEP.
    texts = [
        " ".join(f"w{id_}" for id_ in generator.integers(5, 60, length))
        for length in generator.integers(0, 30, num_texts)
    ]
    tokenizer = make_tokenizer()
    assert kept_rows(texts) == group_texts([tokenizer(text)["input_ids"] for text in texts], 16)


def test_what_is_left_over_is_told_as_short_and_a_single_short_row_is_kept() -> None:
    assert [len(row) for row in kept_rows(["w5 w6 w7"])] == [5]
    rows = mlm.cut([{"text": "w5 " * 20}], make_tokenizer(), PACKED)
    assert mlm.drop_reasons(rows, make_tokenizer(), PACKED) == [None, "short"]


def test_an_encoding_without_packing_is_written_as_before() -> None:
    assert "pack" not in EncodingSpec.parse("mlm").dump()
    assert EncodingSpec.parse({"name": "mlm", "pack": True}).dump()["pack"] is True


def test_limits_of_rows_that_packing_does_not_read_are_refused() -> None:
    for option in ({"min_length": 5}, {"max_unknown": 1.0}):
        with pytest.raises(ValueError, match="leave min_length and max_unknown out"):
            mlm.EncodeConfig(pack=True, **option)
