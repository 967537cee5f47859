import pickle
from collections import Counter

import numpy as np
import pytest
import torch

from raydistill.data.corpus import Corpus
from raydistill.data.mixture import CorpusPart, Mixture, open_cached, open_mixture
from raydistill.data.plan import Partners, Plan
from raydistill.data.stream import BatchBuilder, FeedSpec, validation_batches
from raydistill.training.spec import TrainSpec
from toys.corpus import random_rows, write_corpus
from toys.training import make_spec

MLM = {"name": "mlm"}
SIZES = {"a": 250, "b": 120}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixture")
    for seed, (name, size) in enumerate(SIZES.items()):
        write_corpus(folder / name, random_rows(size, seed=seed))
    return folder


def mixed(folder, **weights: float) -> Corpus | Mixture:
    return open_mixture(parts(folder, **weights))


def parts(folder, **weights: float) -> list[CorpusPart]:
    return [CorpusPart(str(folder / name), weight) for name, weight in weights.items()]


def texts(corpus, rows=None) -> list[tuple[int, ...]]:
    rows = np.arange(len(corpus)) if rows is None else rows
    return [tuple(row.tolist()) for row in corpus.read_rows(rows)]


def test_one_part_of_weight_one_is_the_plain_corpus(folder):
    corpus = mixed(folder, a=1)
    assert isinstance(corpus, Corpus)
    assert corpus.hash == Corpus.open(str(folder / "a")).hash


def test_one_part_of_weight_one_gives_the_batches_of_its_uri(folder):
    specs = (FeedSpec.make(of, MLM, None, seed=3, batch_size=8) for of in (str(folder / "a"), parts(folder, a=1)))
    first, second = (BatchBuilder(spec) for spec in specs)
    rows = first.plan.rows(2)
    assert rows.tolist() == second.plan.rows(2).tolist()
    batch, other = (builder.batch(rows, epoch=0, step=2) for builder in (first, second))
    assert all(torch.equal(batch[name], other[name]) for name in batch.columns)


@pytest.mark.parametrize(("weight", "times"), [(0.5, {1: 125}), (1, {1: 250}), (2.5, {2: 125, 3: 125}), (3, {3: 250})])
def test_rows_enter_an_epoch_as_often_as_the_weight_says(folder, weight, times):
    corpus = mixed(folder, a=weight, b=1)
    plan = Plan(corpus.lengths, corpus.shard_offsets, batch_size=16, seed=0)
    seen = np.concatenate([plan.rows(step) for step in range(plan.steps_per_epoch)])
    assert sorted(seen.tolist()) == list(range(len(corpus)))
    counted = Counter(texts(corpus, seen))
    of_a, of_b = (set(texts(Corpus.open(str(folder / name)))) for name in SIZES)
    assert Counter(counted[text] for text in of_a if text in counted) == times
    assert {counted[text] for text in of_b} == {1}


def test_lengths_are_those_of_the_rows(folder):
    corpus = mixed(folder, a=1.3, b=0.4)
    assert corpus.lengths[:].tolist() == [len(text) for text in texts(corpus)]


def test_rows_come_in_the_order_asked_for(folder):
    corpus = mixed(folder, a=1.3, b=2.4)
    every = texts(corpus)
    wanted = [len(corpus) - 1, 0, 260, 300, 0, 400, 120]
    assert texts(corpus, wanted) == [every[row] for row in wanted]


def test_a_partial_copy_takes_its_share_of_each_shard_and_two_of_them_other_rows(folder):
    half = mixed(folder, a=0.5)
    assert np.diff(half.shard_offsets).tolist() == [50, 50, 25]
    assert texts(half) == texts(mixed(folder, a=0.5))
    whole = texts(mixed(folder, a=1))
    chosen = {whole.index(text) for text in texts(half)}
    assert chosen != set(range(50)) | set(range(100, 150)) | set(range(200, 225))
    twice = open_mixture(parts(folder, a=0.5) * 2)
    assert 20 < len(set(texts(twice, np.arange(125))) & set(texts(twice, np.arange(125, 250)))) < 105


def test_copies_of_a_row_are_masked_apart(folder):
    builder = BatchBuilder(FeedSpec.make(parts(folder, a=2), MLM, None, seed=3))
    rows = np.arange(50)
    first, second = (builder.batch(rows + start, epoch=0, step=0) for start in (0, 250))
    assert torch.equal(first["lengths"], second["lengths"])
    assert not torch.equal(first["label_index"], second["label_index"])


def test_partners_are_a_permutation_of_a_mixture(folder):
    corpus = mixed(folder, a=1.5, b=2)
    found = Partners(corpus.shard_offsets, seed=1).of(np.arange(len(corpus)))
    assert sorted(found.tolist()) == list(range(len(corpus)))
    # Shards change places with shards of their size, which here lie in both parts.
    assert ((np.arange(len(corpus)) < 375) != (found < 375)).any()


def test_token_counts_add_up_by_weight(folder):
    counts = [Corpus.open(str(folder / name)).token_counts for name in SIZES]
    encoding = mixed(folder, a=1, b=3).encoding
    assert encoding.token_counts.tolist() == (counts[0] + 3 * counts[1]).tolist()
    half = mixed(folder, a=0.5, b=1).encoding.token_counts
    assert np.abs(half - (counts[0] / 2 + counts[1])).max() <= 0.5


def test_the_hash_is_one_of_the_parts_and_their_weights(folder):
    hashes = [mixed(folder, **weights).hash for weights in ({"a": 1, "b": 1}, {"a": 1, "b": 2}, {"b": 1, "a": 1})]
    assert len(set(hashes)) == 3
    assert mixed(folder, a=1, b=1).hash == hashes[0]


def test_a_changed_part_is_refused(folder):
    first = tuple(parts(folder, a=1, b=2))
    assert len(open_cached(first, open_mixture(first).hash)) == 490
    with pytest.raises(ValueError, match=r"a', '.*b' changed: its hash is"):
        open_cached(first, "0" * 64)


def test_a_spec_of_parts_is_plain_data(folder):
    spec = FeedSpec.make(parts(folder, a=1, b=0.5), MLM, None, seed=1)
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_a_training_takes_one_uri_or_parts(folder):
    data = make_spec(folder).model_dump()
    whole = {"uri": str(folder / "train"), "weight": 1.0, "few_shot": None, "label_subset": (), "seed": 0, "name": ""}
    assert data["corpus"] == [whole]
    data["corpus"].append({"uri": "other", "weight": 2})
    assert TrainSpec.model_validate(data).corpus[1] == CorpusPart("other", 2.0)


def test_validation_rows_of_all_parts_are_read(folder):
    spec = FeedSpec.make(parts(folder, a=1, b=1), MLM, None, seed=1)
    rows = [int(row) for batch in validation_batches(spec, micro_batch_size=50) for row in batch["row_id"]]
    assert sorted(rows) == list(range(370))


def test_another_tokenizer_is_refused_with_both_hashes(folder, tmp_path):
    write_corpus(tmp_path / "c", random_rows(20), tokenizer_hash="1" * 64)
    with pytest.raises(ValueError, match=f"c' has tokenizer hash '{'1' * 64}', corpus '.*a' has '{'0' * 64}'") as error:
        open_mixture([CorpusPart(str(folder / "a")), CorpusPart(str(tmp_path / "c"))])
    assert "\n" not in str(error.value)


def test_another_task_is_refused_by_name(folder, tmp_path):
    write_corpus(tmp_path / "c", random_rows(20))
    path = tmp_path / "c/manifest.json"
    path.write_text(path.read_text().replace('"name": "mlm"', '"name": "ner"'))
    with pytest.raises(ValueError, match=r"c' has task 'ner', corpus '.*a' has 'mlm'"):
        open_mixture([CorpusPart(str(folder / "a")), CorpusPart(str(tmp_path / "c"))])


def test_a_weight_that_leaves_no_row_is_refused(folder):
    with pytest.raises(ValueError, match=r"a' has 250 rows and weight 0.001, which leaves none"):
        mixed(folder, a=0.001)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), float("nan")])
def test_a_weight_that_is_no_positive_number_is_refused(weight):
    with pytest.raises(ValueError, match=f"the weight of corpus 'x' is {weight}"):
        CorpusPart("x", weight)


def test_an_empty_list_is_refused():
    with pytest.raises(ValueError, match="corpus is an empty list"):
        open_mixture([])
