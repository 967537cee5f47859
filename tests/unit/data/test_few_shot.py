"""A few rows of each class, drawn from a corpus by a seed."""

from collections import Counter

import numpy as np
import pytest

from raydistill.config.sections import CorpusRef
from raydistill.data.corpus import Corpus
from raydistill.data.mixture import CorpusPart, chosen_rows, open_cached, open_mixture
from raydistill.data.plan import Plan
from raydistill.tasks._base import Column
from toys.corpus import random_rows, write_corpus

LABELS = ["red", "green", "blue"]
NUM_ROWS = 250
COLUMNS = {"label": Column("int64"), "second": Column("int32")}
CLASSES = [0 if row % 4 else 1 + (row // 4) % 2 for row in range(NUM_ROWS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("few")
    write_corpus(
        folder,
        random_rows(NUM_ROWS),
        encoding={"name": "classification", "labels": LABELS},
        columns=COLUMNS,
        values=[{"label": label, "second": row} for row, label in enumerate(CLASSES)],
    )
    return folder


def few(folder, number: int, **options):
    return open_mixture([CorpusPart(str(folder), few_shot=number, **options)])


def numbers_of(corpus) -> list[int]:
    """Rows of the whole corpus, which each row tells in its column ``second``."""
    return corpus.read_columns(np.arange(len(corpus))).column("second").to_pylist()


def test_there_are_so_many_rows_of_each_class_with_their_own_ids_and_labels(folder):
    corpus, whole = few(folder, 8), Corpus.open(str(folder))
    labels = corpus.read_columns(np.arange(len(corpus))).column("label").to_pylist()
    assert Counter(labels) == {0: 8, 1: 8, 2: 8}
    numbers = numbers_of(corpus)
    assert labels == [CLASSES[number] for number in numbers]
    # What is stored of teachers is joined by these.
    assert corpus.located(np.arange(24))[1].tolist() == numbers
    assert [row.tolist() for row in corpus.read_rows(np.arange(24))] == [r.tolist() for r in whole.read_rows(numbers)]
    assert corpus.lengths[:].tolist() == whole.lengths[numbers].tolist()
    assert (corpus.encoding.num_rows, corpus.encoding.labels) == (24, tuple(LABELS))


def test_another_seed_draws_other_rows_and_more_rows_include_fewer(folder):
    first = set(numbers_of(few(folder, 8, seed=1)))
    assert first == set(numbers_of(few(folder, 8, seed=1)))
    assert first != set(numbers_of(few(folder, 8, seed=2)))
    assert first < set(numbers_of(few(folder, 20, seed=1)))


def test_every_row_of_a_class_is_as_likely(folder):
    corpus = _of(folder)
    counts = Counter(
        first + row
        for seed in range(400)
        for chosen in [chosen_rows(CorpusPart("x", few_shot=8, seed=seed), corpus)]
        for shard, first in enumerate(corpus.shard_offsets[:-1].tolist())
        for row in chosen(shard).tolist()
    )
    drawn = [counts[number] for number in range(NUM_ROWS) if CLASSES[number] == 1]
    # 8 of 32 rows in 400 draws: 100 each, with a standard deviation of 8.7.
    assert len(drawn) == 32
    assert 60 < min(drawn) <= max(drawn) < 140


def _of(folder) -> Corpus:
    return Corpus.open(str(folder))


def test_the_hash_is_one_of_number_and_seed(folder):
    hashes = [few(folder, 8).hash, few(folder, 9).hash, few(folder, 8, seed=3).hash, _of(folder).hash]
    assert len(set(hashes)) == 4
    part = (CorpusPart(str(folder), few_shot=8),)
    assert len(open_cached(part, hashes[0])) == 24
    with pytest.raises(ValueError, match="changed: its hash is"):
        open_cached(part, hashes[1])


def test_a_weight_repeats_the_chosen_rows_and_an_epoch_has_each_once(folder):
    corpus = few(folder, 8, weight=2)
    assert len(corpus) == 2 * 3 * 8
    assert set(Counter(numbers_of(corpus)).values()) == {2}
    assert set(numbers_of(corpus)) == set(numbers_of(few(folder, 8)))
    plan = Plan(corpus.lengths, corpus.shard_offsets, batch_size=7, seed=0)
    seen = np.concatenate([plan.rows(step) for step in range(plan.steps_per_epoch)])
    assert sorted(seen.tolist()) == list(range(len(corpus)))


def test_a_share_of_chosen_rows_is_refused(folder):
    with pytest.raises(ValueError, match=r"is 2\.5 beside few_shot; .* give a whole number"):
        few(folder, 8, weight=2.5)
    with pytest.raises(ValueError, match=r"weight is 0\.5 beside few_shot"):
        CorpusRef(corpus="c", few_shot=8, weight=0.5)


def test_chosen_rows_of_one_part_stand_beside_all_of_another(folder):
    corpus = open_mixture([CorpusPart(str(folder), few_shot=2), CorpusPart(str(folder))])
    assert len(corpus) == 6 + NUM_ROWS
    assert numbers_of(corpus)[6:] == list(range(NUM_ROWS))


def test_too_chosen_rows_of_a_class_are_refused_by_its_name(folder):
    assert len(few(folder, 31)) == 93
    with pytest.raises(ValueError, match=r"few_shot is 32, but corpus '.*' has 31 rows of class 'blue'; lower it$"):
        few(folder, 32)


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_a_corpus_without_classes_is_refused(tmp_path, dtype):
    columns = {"label": Column(dtype)} if dtype else None
    write_corpus(tmp_path, random_rows(3), columns=columns, values=[{"label": 0.5}] * 3)
    with pytest.raises(ValueError, match=r"few_shot is 1, but corpus .* has no class for each row; leave it out$"):
        few(tmp_path, 1)


def test_a_number_below_one_is_refused():
    with pytest.raises(ValueError, match="few_shot of corpus 'x' is 0; it must be at least 1"):
        CorpusPart("x", few_shot=0)
