"""Token counts of a user's own: files that are read or refused, and a corpus whose masks follow them."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import BertConfig

from raydistill.batch import collate
from raydistill.config.sections import ScalingConfig
from raydistill.data.corpus import Corpus
from raydistill.data.corpus_writer import CorpusWriter
from raydistill.data.token_counts import read_counts_of
from raydistill.stages.binarize import Config, Stage
from raydistill.tasks.mlm import Config as MaskConfig
from raydistill.tasks.mlm import Task
from toys.corpus import VOCABULARY, random_rows, write_corpus
from toys.words import make_tokenizer

COUNTS = np.arange(VOCABULARY, dtype=np.int64)


def npy(path: Path, array: Any) -> str:
    np.save(path, array)
    return str(path)


def pickled(path: Path, value: Any) -> str:
    path.write_bytes(pickle.dumps(value))
    return str(path)


def test_counts_are_those_of_a_numpy_file_or_of_a_published_pickle(tmp_path: Path) -> None:
    for path in (npy(tmp_path / "a.npy", COUNTS), pickled(tmp_path / "b.pickle", COUNTS.tolist())):
        assert read_counts_of(path, vocab_size=VOCABULARY).tolist() == COUNTS.tolist()


class Planted:
    """Unpickling it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_nothing_in_a_file_of_counts_is_run(tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    objects = np.array([Planted(planted)], dtype=object)
    for path in (pickled(tmp_path / "a.pickle", [Planted(planted)]), npy(tmp_path / "b.npy", objects)):
        with pytest.raises(ValueError, match=r"is not read|is not an array of numbers"):
            read_counts_of(path, vocab_size=VOCABULARY)
    assert not planted.exists()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (COUNTS[:-1], "which counts 60 ids; the tokenizer has 61"),
        (-COUNTS, "whose list holds something other than counts"),
        (COUNTS / 2, r"an array of shape \(61,\) and type float64; give one count per id"),
        (COUNTS[None], r"an array of shape \(1, 61\)"),
    ],
)
def test_other_counts_are_refused_by_what_they_are(tmp_path: Path, array: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_counts_of(npy(tmp_path / "a.npy", array), vocab_size=VOCABULARY)


def test_masks_follow_the_counts_that_a_corpus_was_given(tmp_path: Path) -> None:
    """With ids that occur once and others a million times in the larger text, the rare ones alone are masked."""
    rows = random_rows(40)
    counts = np.where(np.arange(VOCABULARY) % 2, 1_000_000, 1)
    plain = write_corpus(tmp_path / "plain", rows)
    with CorpusWriter(str(tmp_path / "given"), vocab_size=VOCABULARY, token_counts=counts) as writer:
        for row in rows:
            writer.add(row, np.array([len(row)], dtype=np.int32))
        manifest = plain.manifest
        writer.finish(tokenizer=manifest.tokenizer, tokenizer_files={}, encoding={"name": "mlm"}, sources=[], split={})
    given = Corpus.open(str(tmp_path / "given"))
    assert given.token_counts.tolist() == counts.tolist()
    assert given.hash != plain.hash
    batch = collate(rows, range(40), pad_id=0, seed=1)
    labels = [Task(MaskConfig(), corpus.encoding).prepare_batch(batch)["labels"] for corpus in (plain, given)]
    odd = [float((one % 2).double().mean()) for one in labels]
    assert odd[0] > 0.3
    assert odd[1] < 0.05


def binarize_stage(folder: Path, **keys: Any) -> Stage:
    (folder / "text.txt").write_text("w5 w6")
    make_tokenizer().save_pretrained(folder / "model")
    BertConfig(vocab_size=61, max_position_embeddings=40).save_pretrained(folder / "model")
    source = {"name": "text", "path": str(folder / "text.txt")}
    given = {"kind": "binarize", "source": source, "tokenizer": str(folder / "model"), **keys}
    return Stage("corpus", Config.model_validate(given))


def test_a_corpus_is_another_one_with_other_counts_and_as_before_without_any(tmp_path: Path) -> None:
    path = npy(tmp_path / "counts.npy", COUNTS)
    scaling = ScalingConfig()
    before = binarize_stage(tmp_path).identity(scaling)
    assert "token_counts" not in before
    first = binarize_stage(tmp_path, token_counts=path).identity(scaling)
    npy(tmp_path / "counts.npy", COUNTS + 1)
    assert first != binarize_stage(tmp_path, token_counts=path).identity(scaling)


def test_the_preflight_refuses_counts_of_other_ids_and_counts_that_nothing_reads(tmp_path: Path) -> None:
    path = npy(tmp_path / "counts.npy", COUNTS[:-1])
    with pytest.raises(ValueError, match="which counts 60 ids; the tokenizer has 61"):
        binarize_stage(tmp_path, token_counts=path).plan(ScalingConfig(), {})
    labels = {"name": "classification", "labels": ["no", "yes"], "labelled": "none", "max_length": 40}
    with pytest.raises(ValueError, match="rows of classification get no masks; leave it out, or encode for mlm"):
        binarize_stage(tmp_path, token_counts=path, encoding=labels).plan(ScalingConfig(), {})
