from itertools import pairwise

import numpy as np
import pytest

from raydistill.data.plan import Partners, Plan, bucket_upper_edge, length_bucket, micro_batches

SHARDS = np.array([0, 100, 200, 300, 337])


def make_plan(*, batch_size: int = 16, seed: int = 3, window_rows: int = 64, group_by_length: bool = True) -> Plan:
    lengths = np.random.default_rng(0).integers(12, 128, SHARDS[-1])
    return Plan(
        lengths, SHARDS, batch_size=batch_size, seed=seed, group_by_length=group_by_length, window_rows=window_rows
    )


def epoch_rows(plan: Plan, epoch: int) -> list[list[int]]:
    first = epoch * plan.steps_per_epoch
    return [plan.rows(step).tolist() for step in range(first, first + plan.steps_per_epoch)]


def test_buckets_are_the_published_bins():
    bins = np.arange(3, 512, 4)
    lengths = np.arange(1, 513)
    assert length_bucket(lengths).tolist() == [int((bins <= length).sum()) for length in lengths]


def test_upper_edge_is_the_longest_length_of_the_bucket():
    lengths = np.arange(3, 300)
    edges = bucket_upper_edge(lengths)
    assert (length_bucket(edges) == length_bucket(lengths)).all()
    assert (length_bucket(edges + 1) > length_bucket(lengths)).all()


@pytest.mark.parametrize("group_by_length", [True, False])
@pytest.mark.parametrize("window_rows", [1, 64, 10_000])
def test_every_epoch_holds_every_row_once(window_rows, group_by_length):
    plan = make_plan(window_rows=window_rows, group_by_length=group_by_length)
    for epoch in range(2):
        rows = [row for batch in epoch_rows(plan, epoch) for row in batch]
        assert sorted(rows) == list(range(337))


@pytest.mark.parametrize("batch_size", [1, 7, 16, 100, 336, 337, 1000])
def test_batch_sizes_differ_by_at_most_one_row(batch_size):
    sizes = {len(batch) for batch in epoch_rows(make_plan(batch_size=batch_size), 0)}
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= batch_size
    assert min(sizes) == make_plan(batch_size=batch_size).smallest_batch


def test_an_epoch_has_as_few_steps_as_the_batch_size_allows():
    assert make_plan(batch_size=16).steps_per_epoch == 22


def test_epochs_and_seeds_give_other_orders():
    plan = make_plan()
    first = epoch_rows(plan, 0)
    assert first != epoch_rows(plan, 1)
    assert first != epoch_rows(make_plan(seed=4), 0)


def test_a_step_asked_for_alone_equals_the_step_in_sequence():
    in_sequence = epoch_rows(make_plan(), 1)
    steps_per_epoch = len(in_sequence)
    for step in (steps_per_epoch, steps_per_epoch + 13, 2 * steps_per_epoch - 1):
        assert make_plan().rows(step).tolist() == in_sequence[step - steps_per_epoch]


def test_grouping_by_length_narrows_the_batches():
    lengths = np.random.default_rng(0).integers(12, 128, SHARDS[-1])

    def mean_spread(plan: Plan) -> float:
        return float(np.mean([np.ptp(lengths[batch]) for batch in epoch_rows(plan, 0)]))

    grouped = mean_spread(make_plan(window_rows=10_000))
    assert grouped < 0.25 * mean_spread(make_plan(window_rows=10_000, group_by_length=False))


def test_long_and_short_batches_are_mixed_over_the_epoch():
    lengths = np.random.default_rng(0).integers(12, 128, SHARDS[-1])
    means = [lengths[batch].mean() for batch in epoch_rows(make_plan(window_rows=10_000), 0)]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.6


def test_pieces_cover_the_steps_in_order_and_stay_inside_windows():
    plan = make_plan(window_rows=64)
    pieces = list(plan.pieces(5, 60, max_steps=3))
    assert [step for start, stop in pieces for step in range(start, stop)] == list(range(5, 60))
    assert max(stop - start for start, stop in pieces) == 3
    for start, stop in pieces:
        windows = {plan._window_of(step % plan.steps_per_epoch) for step in range(start, stop)}
        assert len(windows) == 1


def test_ranks_split_a_batch_into_the_same_rows_for_any_number_of_workers():
    rows = make_plan().rows(2)
    for world_size, num_micro_batches in ((1, 1), (1, 4), (2, 2), (4, 1)):
        parts = [
            part
            for rank in range(world_size)
            for part in micro_batches(rows, rank=rank, world_size=world_size, num_micro_batches=num_micro_batches)
        ]
        assert np.concatenate(parts).tolist() == rows.tolist()


def test_an_empty_corpus_is_refused():
    with pytest.raises(ValueError, match="no rows"):
        Plan(np.empty(0, dtype=np.int32), np.array([0]), batch_size=2, seed=0)


def test_partners_are_a_permutation_of_the_rows():
    partners = Partners(SHARDS, seed=1).of(np.arange(337))
    assert sorted(partners.tolist()) == list(range(337))
    assert partners.tolist() != Partners(SHARDS, seed=2).of(np.arange(337)).tolist()


def test_a_rows_partner_does_not_depend_on_the_rows_asked_for_with_it():
    partners = Partners(SHARDS, seed=1)
    every = partners.of(np.arange(337))
    some = np.array([336, 5, 120, 6])
    assert Partners(SHARDS, seed=1).of(some).tolist() == every[some].tolist()


def test_partners_of_a_shard_lie_in_one_shard():
    partners = Partners(SHARDS, seed=1).of(np.arange(337))
    shards = np.searchsorted(SHARDS, partners, side="right") - 1
    assert [len(set(shards[start:stop])) for start, stop in pairwise(SHARDS)] == [1, 1, 1, 1]


@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_rows_that_are_not_shuffled_come_in_the_corpus_order_in_every_epoch(batch_size):
    offsets = np.array([0, 40, 100, 230])
    plan = Plan(
        np.arange(230) % 17 + 1,
        offsets,
        batch_size=batch_size,
        seed=3,
        group_by_length=False,
        shuffle=False,
        window_rows=64,
    )
    for epoch in range(2):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        batches = [plan.rows(step) for step in steps]
        assert np.concatenate(batches).tolist() == list(range(230))
        sizes = {len(batch) for batch in batches}
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= batch_size
