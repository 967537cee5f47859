import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from raydistill.data.corpus import Corpus, tokenizer_hash
from raydistill.data.shards import ShardReader
from toys.checkpoint import toy_tokenizer
from toys.corpus import VOCABULARY, random_rows, write_corpus


def test_rows_come_back_in_the_order_asked_for(tmp_path):
    rows = random_rows(250)
    corpus = write_corpus(tmp_path / "corpus", rows, rows_per_shard=100)
    wanted = [249, 0, 101, 100, 99, 0]
    for row, number in zip(corpus.read_rows(wanted), wanted, strict=True):
        assert row.tolist() == rows[number].tolist()


def test_rows_are_found_in_later_row_groups(tmp_path):
    rows = random_rows(2300)
    corpus = write_corpus(tmp_path / "corpus", rows, rows_per_shard=2200)
    assert pq.ParquetFile(tmp_path / "corpus/shards/part-00000.parquet").num_row_groups == 3
    wanted = [2199, 1000, 999, 2200]
    assert [row.tolist() for row in corpus.read_rows(wanted)] == [rows[number].tolist() for number in wanted]


def test_rows_evicted_from_memory_are_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr("raydistill.data.corpus.CACHE_BYTES", 1)
    monkeypatch.setattr("raydistill.data.corpus._OPEN_SHARDS", 1)
    rows = random_rows(300)
    corpus = write_corpus(tmp_path / "corpus", rows)
    for _ in range(2):
        assert [row.tolist() for row in corpus.read_rows([0, 150, 299])] == [rows[n].tolist() for n in (0, 150, 299)]
    assert len(corpus._ids) == len(corpus._readers) == 1


def test_rows_asked_for_together_read_each_row_group_once_and_those_of_a_shard_in_one_go(tmp_path, monkeypatch):
    monkeypatch.setattr("raydistill.data.corpus.CACHE_BYTES", 1)
    rows = random_rows(3300)
    corpus = write_corpus(tmp_path / "corpus", rows, rows_per_shard=2500)
    loads, load = [], ShardReader.read_ids
    monkeypatch.setattr(ShardReader, "read_ids", lambda self, groups: loads.append(groups) or load(self, groups))
    wanted = [2499, 0, 2600, 1, 2498, 999, 1000, 0]
    assert [row.tolist() for row in corpus.read_rows(wanted)] == [rows[number].tolist() for number in wanted]
    assert loads == [[0, 1, 2], [0]]


@pytest.mark.parametrize("at_once", [1, 2, 16])
def test_many_row_groups_come_back_whole_from_any_storage(monkeypatch, at_once):
    monkeypatch.setattr("raydistill.data.shards._GROUPS_AT_ONCE", at_once)
    rows = random_rows(4300)
    corpus = write_corpus(f"memory://groups/{at_once}", rows, rows_per_shard=4300)
    wanted = [4299, 0, 1000, 3999, 2000]
    assert [row.tolist() for row in corpus.read_rows(wanted)] == [rows[number].tolist() for number in wanted]


def test_rows_do_not_keep_their_row_group_in_memory(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", random_rows(300))
    assert all(row.base is None for row in corpus.read_rows([0, 150]))
    assert corpus.read_rows([]) == []


def test_the_manifest_counts_rows_tokens_and_ids(tmp_path):
    rows = random_rows(250)
    corpus = write_corpus(tmp_path / "corpus", rows)
    every = np.concatenate(rows)
    assert (len(corpus), corpus.manifest.tokens) == (250, len(every))
    assert corpus.lengths[:].tolist() == [len(row) for row in rows]
    assert corpus.token_counts.tolist() == np.bincount(every, minlength=VOCABULARY).tolist()
    assert corpus.shard_offsets.tolist() == [0, 100, 200, 250]


def test_shards_hold_row_ids_ids_and_lengths(tmp_path):
    rows = random_rows(150)
    write_corpus(tmp_path / "corpus", rows)
    table = pq.read_table(tmp_path / "corpus/shards/part-00001.parquet")
    assert table.column_names == ["row_id", "input_ids", "length"]
    assert table["row_id"].to_pylist() == list(range(100, 150))
    assert table["length"].to_pylist() == [len(row) for row in rows[100:]]


@pytest.mark.parametrize(("vocabulary", "dtype"), [(65_536, "uint16"), (65_537, "int32")])
def test_ids_take_two_bytes_exactly_when_the_vocabulary_allows(tmp_path, vocabulary, dtype):
    rows = [np.array([2, vocabulary - 1, 3])]
    corpus = write_corpus(tmp_path / "corpus", rows, vocabulary=vocabulary)
    (row,) = corpus.read_rows([0])
    assert row.dtype == dtype == corpus.manifest.dtype
    assert row.tolist() == [2, vocabulary - 1, 3]


def test_ids_outside_the_vocabulary_are_refused(tmp_path):
    with pytest.raises(ValueError, match="id 61 but its vocabulary has 61 entries"):
        write_corpus(tmp_path / "corpus", [np.array([2, VOCABULARY, 3])])
    assert list(tmp_path.iterdir()) == []


def interrupted_rows(folder, number):
    """Rows whose source is interrupted after most of them were written."""
    yield from random_rows(number)
    assert any(path.name.startswith(folder.name + ".writing") for path in folder.parent.iterdir())
    raise KeyboardInterrupt


def test_an_interrupted_write_leaves_no_corpus(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write_corpus(tmp_path / "corpus", interrupted_rows(tmp_path / "corpus", 1500))
    with pytest.raises(ValueError, match=r"no manifest\.json"):
        Corpus.open(str(tmp_path / "corpus"))
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_keeps_the_finished_corpus_before_it(tmp_path):
    earlier = write_corpus(tmp_path / "corpus", random_rows(10))
    with pytest.raises(KeyboardInterrupt):
        write_corpus(tmp_path / "corpus", interrupted_rows(tmp_path / "corpus", 1500))
    assert Corpus.open(str(tmp_path / "corpus")).hash == earlier.hash


def test_a_corpus_without_its_manifest_is_not_finished(tmp_path):
    write_corpus(tmp_path / "corpus", random_rows(10))
    (tmp_path / "corpus/manifest.json").unlink()
    with pytest.raises(ValueError, match="give the folder of a finished binarize stage"):
        Corpus.open(str(tmp_path / "corpus"))


def test_equal_rows_give_equal_hashes_and_other_rows_another(tmp_path):
    first = write_corpus(tmp_path / "a", random_rows(30))
    assert first.hash == write_corpus(tmp_path / "b", random_rows(30)).hash
    assert first.hash != write_corpus(tmp_path / "c", random_rows(30, seed=1)).hash


def test_verify_names_the_file_that_changed(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", random_rows(150), tokenizer_files={"tokenizer.json": b"{}"})
    corpus.verify()
    (tmp_path / "corpus/tokenizer/tokenizer.json").write_bytes(b"[]")
    with pytest.raises(ValueError, match=r"tokenizer/tokenizer\.json has SHA-256"):
        corpus.verify()


SHARD = "shards/part-00001.parquet"


def flip(path, place) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def refusal_of(corpus: Corpus, rows: range) -> str | None:
    """The words in which rows are refused, None when they are read."""
    try:
        corpus.read_rows(rows)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", [SHARD, "lengths.npy", "token_counts.npy"])
def test_a_truncated_or_missing_file_is_refused_by_name_when_the_corpus_is_opened(tmp_path, name):
    write_corpus(tmp_path / "corpus", random_rows(150))
    path = tmp_path / "corpus" / name
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=rf"{name} has {len(content) - 1} bytes, its manifest says {len(content)}; "):
        Corpus.open(str(tmp_path / "corpus"))
    path.unlink()
    with pytest.raises(ValueError, match=f"{name} is missing"):
        Corpus.open(str(tmp_path / "corpus"))


def test_every_flipped_bit_of_a_shard_is_refused_by_name_when_it_is_read(tmp_path):
    rows = random_rows(150)
    write_corpus(tmp_path / "corpus", rows)
    path = tmp_path / "corpus" / SHARD
    num_harmless = 0
    for place in range(0, path.stat().st_size, 7):
        flip(path, place)
        corpus = Corpus.open(str(tmp_path / "corpus"))
        refusal = refusal_of(corpus, range(100, 150))
        if refusal:
            assert SHARD in refusal
            assert "\n" not in refusal
        else:
            # Only a byte that reading the ids does not look at, such as one of another column, may go unseen.
            assert [row.tolist() for row in corpus.read_rows(range(100, 150))] == [row.tolist() for row in rows[100:]]
            num_harmless += 1
        with pytest.raises(ValueError, match=f"{SHARD} has SHA-256"):
            corpus.verify()
        flip(path, place)
    assert num_harmless < 0.5 * path.stat().st_size / 7


def test_a_shard_replaced_by_one_of_the_same_size_is_refused_by_name(tmp_path):
    rows = random_rows(150)
    write_corpus(tmp_path / "corpus", rows)
    # Equal lengths, and ids that compress alike: the first token of one row is another.
    other = [row.copy() for row in rows]
    other[120][1] = other[120][2]
    write_corpus(tmp_path / "other", other)
    path = tmp_path / "corpus" / SHARD
    size = path.stat().st_size
    path.write_bytes((tmp_path / "other" / SHARD).read_bytes()[:size].ljust(size, b" "))
    assert path.stat().st_size == size
    with pytest.raises(ValueError, match=f"{SHARD} has SHA-256"):
        Corpus.open(str(tmp_path / "corpus")).verify()
    with pytest.raises(ValueError, match=f"{SHARD} is not the file that was written there"):
        Corpus.open(str(tmp_path / "corpus")).read_rows([110])


def test_changed_counts_are_refused_by_name(tmp_path):
    write_corpus(tmp_path / "corpus", random_rows(150))
    flip(tmp_path / "corpus" / "token_counts.npy", 200)
    with pytest.raises(ValueError, match=r"token_counts\.npy has SHA-256"):
        _ = Corpus.open(str(tmp_path / "corpus")).token_counts


def test_changed_lengths_are_refused_by_name_when_those_of_their_shard_are_read(tmp_path):
    rows = random_rows(250)
    write_corpus(tmp_path / "corpus", rows)
    # The file ends with the lengths, 4 bytes each: the last of the second shard.
    flip(tmp_path / "corpus/lengths.npy", -4 * 51)
    corpus = Corpus.open(str(tmp_path / "corpus"))
    apart = [249, 0, 99, 200]
    assert corpus.lengths[apart].tolist() == [len(rows[row]) for row in apart]
    with pytest.raises(ValueError, match=r"lengths\.npy has SHA-256"):
        _ = corpus.lengths[[100]]


def test_lengths_are_read_of_the_shards_asked_for_alone_and_once(tmp_path, monkeypatch):
    corpus = write_corpus(tmp_path / "corpus", random_rows(350))
    reads, read = [], corpus._lengths_of
    monkeypatch.setattr(corpus, "_lengths_of", lambda shard: reads.append(shard) or read(shard))
    for _ in range(2):
        _ = corpus.lengths[[349, 101, 300, 102]]
    assert reads == [1, 3]


def test_another_format_version_is_refused(tmp_path):
    write_corpus(tmp_path / "corpus", random_rows(10))
    path = tmp_path / "corpus/manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 99}))
    with pytest.raises(ValueError, match="version 99"):
        Corpus.open(str(tmp_path / "corpus"))


def test_a_corpus_lies_on_any_storage(tmp_path):
    rows = random_rows(120)
    corpus = write_corpus("memory://somewhere/corpus", rows)
    assert corpus.read_rows([119])[0].tolist() == rows[119].tolist()
    assert corpus.lengths[:].tolist() == [len(row) for row in rows]


def test_a_tokenizer_keeps_its_hash_when_padding_is_set_and_not_when_a_token_is_added():
    tokenizer = toy_tokenizer()
    before = tokenizer_hash(tokenizer)
    tokenizer.backend_tokenizer.enable_padding(length=128)
    assert tokenizer_hash(tokenizer) == before
    tokenizer.add_tokens(["more"])
    assert tokenizer_hash(tokenizer) != before
