"""How many bytes four workers read in an epoch, counted where files are opened."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydistill.data import sealed_table, shared_reader, stream
from raydistill.data.corpus import Corpus
from raydistill.data.mixture import CorpusPart, open_cached
from raydistill.data.plan import Plan
from raydistill.data.sealed_table import Recent, SealedFolder
from raydistill.data.shared_reader import _packed, _unpacked, is_worth_sharing
from raydistill.data.stored_outputs import StoredOutputs, StoredSet, open_set
from raydistill.data.stream import BatchBuilder, FeedSpec, work_items
from raydistill.data.teacher_outputs import Header, OutputColumn, OutputSet
from raydistill.data.teacher_outputs_writer import OutputSetWriter
from toys.corpus import random_rows, write_corpus

WORKERS = 4
SHARD_ROWS = 5_000
WINDOW_ROWS = 4_000
"""Four row groups of 1,000 rows, so that windows end within shards and row groups."""
CAUSAL = {"name": "causal", "mapping": "middle_6"}


class Counted:
    """A file that is read, whose bytes are counted."""

    def __init__(self, stream: Any, counts: Counter[str], name: str) -> None:
        self._stream, self._counts, self._name = stream, counts, name

    def read(self, *size: int) -> bytes:
        return bytes(self.read_buffer(*size))

    def read_buffer(self, *size: int) -> Any:
        """What Arrow calls."""
        content = self._stream.read_buffer(*size)
        self._counts[self._name.partition("/")[0]] += len(content)
        return content

    def __enter__(self) -> "Counted":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Bytes by the folder, or the file beside it, that they were read of."""
    found: Counter[str] = Counter()
    open_input = SealedFolder.open_input
    monkeypatch.setattr(SealedFolder, "open_input", lambda self, name: Counted(open_input(self, name), found, name))
    # So little that nothing is kept for its size alone.
    for module in ("corpus", "teacher_outputs"):
        monkeypatch.setattr(f"raydistill.data.{module}.CACHE_BYTES", 1)
    monkeypatch.setattr(stream, "Plan", partial(Plan, window_rows=WINDOW_ROWS))
    monkeypatch.setattr(stream, "_ROWS_PER_ITEM", 250)
    forget()
    return found


def forget() -> None:
    """Let the next reader open the files."""
    open_cached.cache_clear()
    open_set.cache_clear()


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("corpora")
    sizes = (23_400, 9_000)
    return [
        write_corpus(folder / str(seed), random_rows(size, seed=seed), rows_per_shard=SHARD_ROWS).uri
        for seed, size in enumerate(sizes)
    ]


def spec_of(corpus: Any, method: Any = None, **options: Any) -> FeedSpec:
    return FeedSpec.make(corpus, {"name": "mlm"}, method, seed=5, batch_size=100, num_micro_batches=1, **options)


def turns(spec: FeedSpec, ahead: int) -> Iterator[tuple[int, range]]:
    """An epoch's work items of all workers, of which each is some items ahead of the one before."""
    steps = spec.plan().steps_per_epoch
    items = list(work_items(spec.plan(), spec, world_size=WORKERS, start_step=0, stop_step=steps))
    assert len(items) > steps / 10
    for _, rank, place in sorted(
        (place - ahead * rank, rank, place) for place in range(len(items)) for rank in range(WORKERS)
    ):
        yield rank, range(items[place]["start"], items[place]["stop"])


def read_epoch(spec: FeedSpec, counts: Counter[str], *, ahead: int = 1) -> int:
    """All that four workers ask one reader for; how many rows that were."""
    reader = BatchBuilder(spec).reader
    counts.clear()
    rows = 0
    for rank, steps in turns(spec, ahead):
        requests, found = reader.read_steps(
            steps, rank=rank, world_size=WORKERS, num_micro_batches=1, num_asking=WORKERS
        )
        rows += len(found.token_ids)
        assert sum(len(one.rows) for one in requests) == len(found.token_ids)
    return rows


def corpus_bytes(uri: str) -> int:
    return Corpus.open(uri).num_bytes


@pytest.mark.parametrize("ahead", [0, 1, 6])
def test_four_workers_read_a_corpus_once_however_far_apart_they_are(corpora, counts, ahead):
    # A window has four items.
    assert read_epoch(spec_of(corpora[0]), counts, ahead=ahead) == 23_400
    assert sum(counts.values()) <= 1.1 * corpus_bytes(corpora[0])
    # Lengths, which the plan sorts rows by, are read once too.
    assert counts["lengths.npy"] == 4 * 23_400


def test_partners_are_read_once_more_at_most(corpora, counts):
    read_epoch(spec_of(corpora[0], CAUSAL), counts)
    assert 1.1 * corpus_bytes(corpora[0]) < sum(counts.values()) <= 2.2 * corpus_bytes(corpora[0])


def test_a_mixture_is_read_as_often_as_its_shards_enter(corpora, counts):
    parts = [CorpusPart(corpora[0], 0.7), CorpusPart(corpora[1], 2.5)]
    rows = read_epoch(spec_of(parts), counts)
    assert rows == 16_380 + 22_500
    # Of some rows of a shard all row groups are read.
    assert sum(counts.values()) <= 1.1 * (corpus_bytes(corpora[0]) + 3 * corpus_bytes(corpora[1]))


def test_workers_that_each_read_for_themselves_read_it_four_times(corpora, counts):
    spec = spec_of(corpora[0])
    for own in range(WORKERS):
        reader = BatchBuilder(spec).reader
        for rank, steps in turns(spec, 1):
            if rank == own:
                reader.read_steps(steps, rank=rank, world_size=WORKERS, num_micro_batches=1)
        forget()
    assert sum(counts.values()) > 3 * corpus_bytes(corpora[0])


def outputs(folder: Path, corpus: str, codec: str) -> OutputSet:
    """A set of 4 numbers a row, compressed, so that it is read and not mapped."""
    sizes = np.diff(Corpus.open(corpus).shard_offsets).tolist()
    header = Header(
        teacher="t", teacher_hash="0", tokenizer_hash="0", corpus_hash=Corpus.open(corpus).hash, rows=sum(sizes),
        task={"name": "mlm"}, labels=(), kinds=("logits",), layers=(), precision="fp32", options={}, codec=codec,
        columns={"logits": OutputColumn(dtype="float32", shape=(64,))},
    )  # fmt: skip
    generator, first = np.random.default_rng(0), 0
    with OutputSetWriter(str(folder), header, shard_rows=sizes) as writer:
        for size in sizes:
            for start in range(first, first + size, 1000):
                rows = np.arange(start, min(start + 1000, first + size))
                writer.add(rows, {"logits": generator.normal(size=(len(rows), 64)).astype(np.float32)})
            first += size
        return writer.finish()


def test_stored_outputs_are_read_once(corpora, counts, tmp_path):
    found = outputs(tmp_path / "set", corpora[0], "zstd")
    stored = StoredOutputs(((StoredSet(found.uri, found.hash),),), ("logits",))
    spec = spec_of(corpora[0], stored=stored)
    read_epoch(spec, counts)
    everything = corpus_bytes(corpora[0]) + found.num_bytes
    assert 0.9 * everything < sum(counts.values()) <= 1.1 * everything


def test_what_is_sent_is_what_was_read(corpora, tmp_path):
    found = outputs(tmp_path / "set", corpora[1], "lz4")
    stored = StoredOutputs(((StoredSet(found.uri, found.hash),),), ("logits",))
    reader = BatchBuilder(spec_of(corpora[1], CAUSAL, stored=stored)).reader
    rows = np.array([8_999, 0, 5_000, 17])
    read = reader.read(rows)
    ragged = np.empty(4, dtype=object)
    ragged[:] = [np.ones((place, 2), dtype=np.float16) for place in range(4)]
    read = read._replace(stored={**read.stored, "places": ragged})
    sent = _unpacked(_packed(read))
    for name in ("token_ids", "partners"):
        pairs = zip(getattr(read, name), getattr(sent, name), strict=True)
        assert all(first.dtype == second.dtype and np.array_equal(first, second) for first, second in pairs)
    assert np.array_equal(read.partner_ids, sent.partner_ids)
    assert np.array_equal(read.stored["teacher_0_logits"], sent.stored["teacher_0_logits"])
    assert [one.tolist() for one in sent.stored["places"]] == [one.tolist() for one in ragged]
    assert sent.values is None


def test_a_reader_is_shared_where_several_tasks_read_more_than_each_keeps(corpora, monkeypatch, tmp_path):
    parts = [CorpusPart(uri) for uri in corpora]
    size = sum(map(corpus_bytes, corpora))
    assert not is_worth_sharing(parts, num_data_tasks=4)
    monkeypatch.setattr(shared_reader, "CACHE_BYTES", size - 1)
    assert is_worth_sharing(parts, num_data_tasks=4)
    assert not is_worth_sharing(parts[:1], num_data_tasks=4)
    assert not is_worth_sharing(parts, num_data_tasks=1)
    found = outputs(tmp_path / "set", corpora[0], "none")
    stored = StoredOutputs(((StoredSet(found.uri, found.hash),),), ("logits",))
    assert is_worth_sharing(parts[:1], stored, num_data_tasks=4)


def made_again(uses: list[tuple[int, int]], *, oldest: int, limit: int = 2) -> list[int]:
    """Which of the values that windows asked for are made anew, all asked for again, with ``oldest`` under way."""
    recent = Recent[int](limit)
    for use, value in uses:
        recent.begin((0, use), oldest=(0, min(oldest, use)))
        recent.get(value, lambda value=value: value)
    made: list[int] = []
    for _, value in uses:
        recent.get(value, lambda value=value: made.append(value) or value)
    return made


def test_what_uses_under_way_asked_for_is_kept_beyond_the_limit():
    uses = [(0, 1), (0, 2), (1, 3), (2, 4), (2, 5)]
    assert made_again(uses, oldest=0) == []
    assert made_again(uses, oldest=2)[0] == 1
    # The latest use counts.
    assert made_again([(0, 1), (2, 1), (0, 1), (2, 2), (2, 3)], oldest=2) == []


def test_it_is_not_kept_beyond_an_eighth_of_the_memory(monkeypatch):
    monkeypatch.setattr(sealed_table, "_most_kept", lambda: 3)
    assert made_again([(0, 1), (0, 2), (0, 3)], oldest=0) == []
    assert made_again([(0, 1), (0, 2), (0, 3), (0, 4)], oldest=0)[0] == 1


def test_without_a_use_the_limit_holds():
    recent = Recent[int](2)
    for value in (1, 2, 3):
        recent.get(value, lambda value=value: value)
    assert len(recent) == 2
