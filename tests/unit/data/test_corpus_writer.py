import hashlib
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from raydistill.data.corpus import Corpus, TokenizerInfo
from raydistill.data.corpus_writer import END, CorpusWriter
from raydistill.data.input_splits import Place
from raydistill.data.sealed_writer import Sealer
from toys.corpus import MAX_LENGTH, SPECIAL_IDS, VOCABULARY, random_rows

ROWS_PER_SHARD = 1300
BLOCKS = [(Place(unit, block), random_rows(290, seed=10 * unit + block)) for unit in range(6) for block in range(3)]
"""18 blocks, none of which ends where a shard does; four shards are full, and a fifth has 20 rows."""
NUM_ROWS = 18 * 290
TOKENIZER = TokenizerInfo(
    hash="0" * 64,
    vocab_size=VOCABULARY,
    special_ids=SPECIAL_IDS,
    all_special_ids=sorted(SPECIAL_IDS.values()),
    max_length=MAX_LENGTH,
    files={"vocab.txt": hashlib.sha256(b"words").hexdigest()},
)


class StoppedError(Exception):
    """What interrupts a writer in these tests."""


def stop(*_: object, **__: object) -> None:
    raise StoppedError


def open_writer(uri: Path | str, *, recipe: str | None = "a") -> CorpusWriter:
    return CorpusWriter(str(uri), vocab_size=VOCABULARY, rows_per_shard=ROWS_PER_SHARD, recipe=recipe)


def add_blocks(writer: CorpusWriter, *, before: int = len(BLOCKS)) -> None:
    """Give the blocks from the writer's start on, as binarize does."""
    for place, rows in BLOCKS[:before]:
        if place >= writer.start:
            lengths = np.array([len(row) for row in rows], dtype=np.int32)
            writer.add(np.concatenate(rows), lengths, place=place, counts={"texts": 300, "short": 10})


def write(uri: Path | str, *, stop_before: int | None = None, recipe: str | None = "a") -> CorpusWriter:
    """Write a corpus, or raise ``StoppedError`` before one of its blocks."""
    with open_writer(uri, recipe=recipe) as writer:
        add_blocks(writer, before=len(BLOCKS) if stop_before is None else stop_before)
        if stop_before is not None:
            raise StoppedError
        writer.finish(tokenizer=TOKENIZER, tokenizer_files={"vocab.txt": b"words"}, encoding={}, sources=[], split={})
    return writer


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "corpus"
    write(folder)
    Corpus.open(str(folder)).verify()
    return folder


@pytest.mark.parametrize("stops", [[5], [8], [17], [5, 6, 12]])
def test_a_resumed_corpus_has_the_bytes_of_an_undisturbed_one(tmp_path, undisturbed, stops):
    for place in stops:
        with pytest.raises(StoppedError):
            write(tmp_path / "corpus", stop_before=place)
        assert [path.name for path in tmp_path.iterdir()] == ["corpus.writing"]
        with pytest.raises(ValueError, match=r"no manifest\.json"):
            Corpus.open(str(tmp_path / "corpus.writing"))
    writer = write(tmp_path / "corpus")
    assert writer.taken_over == stops[-1] * 290 // ROWS_PER_SHARD * ROWS_PER_SHARD > 0
    assert writer.counts == {"texts": 18 * 300, "short": 180}
    assert files_of(tmp_path / "corpus") == files_of(undisturbed)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_rows_are_missing_from_the_block_on_that_the_last_shard_ends_in(tmp_path):
    with pytest.raises(StoppedError):
        write(tmp_path / "corpus", stop_before=12)
    # The second shard ends with row 2,600, in the ninth block.
    assert open_writer(tmp_path / "corpus").start == BLOCKS[8][0]


@pytest.mark.parametrize(
    "function",
    ["corpus_writer.CorpusWriter._write_lengths", "corpus.Manifest.model_dump_json", "sealed_table.Folder.replace"],
)
def test_an_interruption_at_the_end_loses_no_row(tmp_path, undisturbed, monkeypatch, function):
    with monkeypatch.context() as patch:
        patch.setattr(f"raydistill.data.{function}", stop)
        with pytest.raises(StoppedError):
            write(tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()
    writer = open_writer(tmp_path / "corpus")
    assert (writer.taken_over, writer.start) == (NUM_ROWS, END)
    write(tmp_path / "corpus")
    assert files_of(tmp_path / "corpus") == files_of(undisturbed)


def test_a_stop_right_after_a_shards_entry_keeps_the_shard(tmp_path, undisturbed, monkeypatch):
    write_entry = Sealer.write_entry

    def write_entry_and_stop(*given: object) -> None:
        write_entry(*given)
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(Sealer, "write_entry", write_entry_and_stop)
        with pytest.raises(StoppedError):
            write(tmp_path / "corpus")
    assert write(tmp_path / "corpus").taken_over == ROWS_PER_SHARD
    assert files_of(tmp_path / "corpus") == files_of(undisturbed)


def test_a_killed_process_leaves_its_finished_shards(tmp_path, undisturbed):
    script = f"""
import os, sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[2])]}
from test_corpus_writer import add_blocks, open_writer
with open_writer({str(tmp_path / "corpus")!r}) as writer:
    add_blocks(writer, before=13)
    os.kill(os.getpid(), {int(signal.SIGKILL)})
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=120).returncode == -signal.SIGKILL
    assert len(list((tmp_path / "corpus.writing/shards").iterdir())) == 3, "two shards are whole, one is not"
    assert write(tmp_path / "corpus").taken_over == 2 * ROWS_PER_SHARD
    assert files_of(tmp_path / "corpus") == files_of(undisturbed)


def test_shards_of_an_interrupted_write_are_taken_over_up_to_the_first_damaged_one(tmp_path, undisturbed):
    with pytest.raises(StoppedError):
        write(tmp_path / "corpus", stop_before=17)
    flip(tmp_path / "corpus.writing/shards/part-00001.parquet", 100)
    assert write(tmp_path / "corpus").taken_over == ROWS_PER_SHARD
    assert files_of(tmp_path / "corpus") == files_of(undisturbed)


def test_nothing_is_taken_over_from_another_recipe(tmp_path, undisturbed):
    with pytest.raises(StoppedError):
        write(tmp_path / "corpus", stop_before=17, recipe="b")
    assert write(tmp_path / "corpus").taken_over == 0
    assert write(tmp_path / "corpus", recipe="b").taken_over == 0
    assert write(tmp_path / "corpus").taken_over == 0
    assert files_of(tmp_path / "corpus") == files_of(undisturbed)


def test_a_finished_corpus_of_the_recipe_is_left_as_it_is_unless_it_is_damaged(tmp_path, undisturbed, caplog):
    write(tmp_path / "corpus")
    before = (tmp_path / "corpus/manifest.json").stat().st_mtime_ns
    writer = write(tmp_path / "corpus")
    assert (writer.taken_over, writer.rows, writer.start) == (NUM_ROWS, NUM_ROWS, END)
    assert writer.counts == {"texts": 18 * 300, "short": 180}
    assert (tmp_path / "corpus/manifest.json").stat().st_mtime_ns == before
    flip(tmp_path / "corpus/shards/part-00002.parquet", 100)
    assert write(tmp_path / "corpus").taken_over == 0
    assert "part-00002.parquet has SHA-256" in caplog.text
    assert files_of(tmp_path / "corpus") == files_of(undisturbed)


def test_a_write_to_other_storage_is_resumed_in_place(undisturbed):
    uri = "memory://resumed/corpus"
    with pytest.raises(StoppedError):
        write(uri, stop_before=12)
    with pytest.raises(ValueError, match=r"no manifest\.json"):
        Corpus.open(uri)
    assert write(uri).taken_over == 2 * ROWS_PER_SHARD
    corpus = Corpus.open(uri)
    assert corpus.hash == Corpus.open(str(undisturbed)).hash
    corpus.verify()
    assert not corpus._folder.exists("journal")
    with pytest.raises(StoppedError):
        write(uri, stop_before=1, recipe="b")
    with pytest.raises(ValueError, match=r"no manifest\.json"):
        Corpus.open(uri)
