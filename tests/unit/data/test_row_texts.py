from pathlib import Path

import numpy as np
import pytest

from raydistill.data.mixture import CorpusPart
from raydistill.data.row_texts import row_texts
from toys.checkpoint import toy_tokenizer
from toys.corpus import write_corpus


def written(folder: Path, rows: list[list[int]]) -> CorpusPart:
    toy_tokenizer().save_pretrained(folder.with_name("tokenizer"))
    files = {path.name: path.read_bytes() for path in folder.with_name("tokenizer").iterdir()}
    write_corpus(folder, [np.array([2, *row, 3]) for row in rows], tokenizer_files=files)
    return CorpusPart(str(folder))


def test_ids_are_texts_again_without_special_tokens(tmp_path):
    part = written(tmp_path / "corpus", [[5, 6], [7], [8, 9, 10]])
    assert row_texts([part], [2, 0]) == {2: "w8 w9 w10", 0: "w5 w6"}


def test_rows_of_several_corpora_are_numbered_on(tmp_path):
    parts = [written(tmp_path / name, rows) for name, rows in {"a": [[5], [6]], "b": [[7]]}.items()]
    assert row_texts(parts, [1, 2]) == {1: "w6", 2: "w7"}


def test_a_corpus_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        row_texts([CorpusPart(str(tmp_path / "nowhere"))], [0])
