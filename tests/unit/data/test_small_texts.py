"""Texts that are encoded in less time than a process starts are encoded in the process that asks for them."""

from pathlib import Path
from typing import Any

import pytest

from raydistill.config.named import EncodingSpec, SourceSpec
from raydistill.data import encoding
from raydistill.data.corpus import Corpus
from raydistill.data.corpus_building import binarize
from raydistill.data.input_splits import WeightedSource
from raydistill.user_error import UserError
from toys.words import make_tokenizer


class DataTaskError(Exception):
    """Stands for the start of a data task."""


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Binarizes a text without Ray; raises DataTaskError where a data task would read it."""

    def no_tasks(*_arguments: Any, **_options: Any) -> Any:
        raise DataTaskError

    monkeypatch.setattr(encoding, "run_tasks", no_tasks)
    monkeypatch.setenv("RAY_ADDRESS", "none is asked")
    make_tokenizer().save_pretrained(tmp_path / "tokenizer")

    def write(text: bytes) -> Corpus:
        (tmp_path / "a.txt").write_bytes(text)
        binarize(
            sources=[WeightedSource(SourceSpec.parse({"name": "text", "path": str(tmp_path / "a.txt")}))],
            encoding=EncodingSpec.parse({"name": "mlm", "max_length": 16}),
            tokenizer_folder=str(tmp_path / "tokenizer"),
            output=str(tmp_path / "out"),
            validation=0,
        )
        return Corpus.open(str(tmp_path / "out" / "train"))

    return write


TEXT = b"w5 w6 w7 w8 w9 w10 w11 w12 w13 w14 w15 w16 w17\n\n"


def test_small_files_need_no_data_task(make: Any) -> None:
    assert [row.tolist() for row in make(TEXT).read_rows(range(1))] == [[2, *range(5, 18), 3]]


def test_files_above_the_limit_are_read_by_data_tasks(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "SMALL_BYTES", len(TEXT) - 1)
    with pytest.raises(DataTaskError):
        make(TEXT)


def test_a_mistake_in_a_small_file_is_the_error_that_a_data_task_gives(make: Any) -> None:
    with pytest.raises(UserError, match=r"a\.txt is not utf-8-sig at byte 0; give its charset$"):
        make(bytes(range(128, 255)))
