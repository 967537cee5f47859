import shutil
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from raydistill.batch import PARTNER
from raydistill.data.corpus import Corpus
from raydistill.data.plan import bucket_upper_edge
from raydistill.data.shared_reader import shared_reader
from raydistill.data.stream import FeedSpec, feed, validation_batches
from toys.corpus import random_rows, write_corpus

NUM_ROWS = 330
CAUSAL = {"name": "causal", "mapping": "middle_6"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("stream") / "corpus", random_rows(NUM_ROWS))


def make_spec(corpus, *, method=None, num_micro_batches=2) -> FeedSpec:
    return FeedSpec.make(
        corpus.uri, {"name": "mlm"}, method, seed=5, batch_size=32, num_micro_batches=num_micro_batches
    )


def steps_of(spec, *, world_size=1, start_step=0, stop_step=11, reader=None):
    """For each step, the batches of all ranks in order."""
    steps = {"start_step": start_step, "stop_step": stop_step}
    ranks = [list(feed(spec, rank=rank, world_size=world_size, reader=reader, **steps)) for rank in range(world_size)]
    assert {len(steps) for steps in ranks} == {stop_step - start_step}
    return [[batch for batches in step for batch in batches] for step in zip(*ranks, strict=True)]


def row_ids(batches) -> list[int]:
    return [int(row) for batch in batches for row in batch["row_id"]]


def test_one_and_two_workers_get_the_same_rows_with_the_same_masks_in_each_step(ray_cluster, corpus):
    alone = steps_of(make_spec(corpus, num_micro_batches=4), world_size=1)
    together = steps_of(make_spec(corpus, num_micro_batches=2), world_size=2)
    for batches, others in zip(alone, together, strict=True):
        assert row_ids(batches) == row_ids(others)
        for batch, other in zip(batches, others, strict=True):
            assert torch.equal(batch["input_ids"], other["input_ids"])
            assert torch.equal(batch["labels"], other["labels"])
    rows = [row for batches in alone for row in row_ids(batches)]
    assert sorted(rows) == list(range(NUM_ROWS))


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_feed_started_later_gives_the_remaining_steps_over_epochs(ray_cluster, corpus, world_size):
    every = steps_of(make_spec(corpus), stop_step=22)
    spec = make_spec(corpus, num_micro_batches=2 // world_size)
    rest = steps_of(spec, world_size=world_size, start_step=7, stop_step=22)
    assert [row_ids(batches) for batches in rest] == [row_ids(batches) for batches in every[7:]]
    assert [(batch.step, batch.epoch) for (batch, _) in rest] == [(step, step // 11) for step in range(7, 22)]
    assert all(
        torch.equal(a["input_ids"], b["input_ids"])
        for x, y in zip(rest, every[7:], strict=True)
        for a, b in zip(x, y, strict=True)
    )


def test_partners_are_cut_at_the_edge_of_the_rows_length_bucket(ray_cluster, corpus):
    for batches in steps_of(make_spec(corpus, method=CAUSAL), stop_step=3):
        for batch in batches:
            lengths = np.array(corpus.lengths)
            edges = bucket_upper_edge(lengths[batch["row_id"]])
            uncut = lengths[batch[PARTNER + "row_id"]]
            assert (uncut > edges).any()
            assert batch[PARTNER + "lengths"].tolist() == np.minimum(uncut, edges).tolist()
            assert "interchange_base" in batch


def test_a_method_without_partners_gets_none(ray_cluster, corpus):
    ((batch, _),) = steps_of(make_spec(corpus, method={"name": "finetune"}), stop_step=1)
    assert PARTNER + "input_ids" not in batch


def test_workers_that_share_a_reader_get_the_same_batches_while_only_that_reads_shards(ray_cluster, corpus, tmp_path):
    copy = Path(shutil.copytree(corpus.uri, tmp_path / "copy"))
    spec = make_spec(Corpus.open(str(copy)), method=CAUSAL)
    part = {"world_size": 2, "start_step": 4, "stop_step": 13}
    expected = steps_of(spec, **part)

    def assert_equal(found):
        for batches, others in zip(found, expected, strict=True):
            for batch, other in zip(batches, others, strict=True):
                assert batch.columns.keys() == other.columns.keys()
                assert all(torch.equal(batch[name], other[name]) for name in batch.columns)

    shards = {path: path.read_bytes() for path in (copy / "shards").iterdir()}
    with shared_reader() as reader:
        reader.read_steps(spec, 0, 11, rank=0, world_size=1)
        for path, content in shards.items():
            path.write_bytes(bytes(len(content)))
        assert_equal(steps_of(spec, reader=reader, **part))
        # Its successor has to read them anew.
        ray.kill(reader.actor, no_restart=False)
        with pytest.raises(ValueError, match=r"part-0000.\.parquet is not the file that was written there") as caught:
            steps_of(spec, reader=reader, **part)
        assert "\n" not in str(caught.value)
        for path, content in shards.items():
            path.write_bytes(content)
        ray.kill(reader.actor, no_restart=False)
        assert_equal(steps_of(spec, reader=reader, **part))


def test_closing_the_feed_early_frees_its_cpus(ray_cluster, corpus):
    steps = feed(make_spec(corpus), rank=0, world_size=1, stop_step=11 * 500)
    next(steps)
    steps.close()
    assert list(steps) == []
    # The next feed would wait for ever on CPUs that the first still holds.
    assert len(steps_of(make_spec(corpus), stop_step=2)) == 2
    assert ray.is_initialized()


def test_a_changed_corpus_is_refused(ray_cluster, corpus):
    spec = FeedSpec(**{**make_spec(corpus).__dict__, "corpus_hash": "0" * 64})
    with pytest.raises(ValueError, match="changed"):
        next(feed(spec, rank=0, world_size=1, stop_step=1))


def test_micro_batches_without_rows_are_refused(corpus):
    with pytest.raises(ValueError, match="too few for 8 workers with 4 micro-batches each; raise micro_batch_size"):
        next(feed(make_spec(corpus, num_micro_batches=4), rank=0, world_size=8, stop_step=1))


def test_validation_batches_give_every_row_once_over_the_ranks_and_equally_many_to_each(corpus):
    spec = make_spec(corpus)
    ranks = [list(validation_batches(spec, micro_batch_size=16, rank=rank, world_size=3)) for rank in range(3)]
    assert {len(batches) for batches in ranks} == {7}
    assert sorted(row for batches in ranks for row in row_ids(batches)) == list(range(NUM_ROWS))
    assert max(batch.num_rows for batches in ranks for batch in batches) <= 16


def test_validation_batches_mask_the_same_tokens_for_any_batch_size(corpus):
    def targets(micro_batch_size: int) -> dict[int, int]:
        found = {}
        for batch in validation_batches(make_spec(corpus), micro_batch_size=micro_batch_size, num_rows=50):
            rows = batch["label_index"] // batch["input_ids"].shape[1]
            for row, label in zip(batch["row_id"][rows].tolist(), batch["labels"].tolist(), strict=True):
                found[row] = found.get(row, 0) * 61 + label
        return found

    assert len(targets(7)) >= 49
    assert targets(7) == targets(50)
