"""A plan followed through whole epochs, as one, two or four workers would, also when they start again in the middle."""

import json

import numpy as np
import pytest

from raydistill.data.plan import Plan, length_bucket, micro_batches

SHARD_ROWS = (2_500, 2_500, 2_500, 2_500, 1_234)
NUM_ROWS = sum(SHARD_ROWS)
OFFSETS = np.concatenate([[0], np.cumsum(SHARD_ROWS)])
LENGTHS = np.clip(np.random.default_rng(0).gamma(4, 17.5, NUM_ROWS), 12, 128).astype(np.int32)
BATCH_SIZE, MICRO_BATCH_SIZE = 64, 8


def make_plan(*, group_by_length: bool = True) -> Plan:
    # An epoch has three windows.
    return Plan(
        LENGTHS, OFFSETS, batch_size=BATCH_SIZE, seed=3, group_by_length=group_by_length, window_rows=NUM_ROWS // 3
    )


def rank_steps(*, num_workers: int, starts: tuple[int, ...] = (0,)) -> list[list[list[np.ndarray]]]:
    """For each step of the second epoch, the micro-batches of each rank; every start has plans of its own."""
    first = make_plan().steps_per_epoch
    stops = [*(first + start for start in starts[1:]), 2 * first]
    parts = BATCH_SIZE // MICRO_BATCH_SIZE // num_workers
    steps = []
    for start, stop in zip((first + start for start in starts), stops, strict=True):
        plans = [make_plan() for _ in range(num_workers)]
        steps += [
            [
                micro_batches(plan.rows(step), rank=rank, world_size=num_workers, num_micro_batches=parts)
                for rank, plan in enumerate(plans)
            ]
            for step in range(start, stop)
        ]
    return steps


def global_batches(steps: list[list[list[np.ndarray]]]) -> list[list[int]]:
    """The rows of each step, over its ranks and their micro-batches in order."""
    return [[int(row) for rank in ranks for part in rank for row in part] for ranks in steps]


@pytest.fixture(scope="module")
def alone() -> list[list[int]]:
    return global_batches(rank_steps(num_workers=1))


def test_an_epoch_holds_every_row_once(alone):
    assert sorted(row for batch in alone for row in batch) == list(range(NUM_ROWS))


@pytest.mark.parametrize("num_workers", [2, 4])
def test_any_number_of_workers_reads_the_same_global_batches(alone, num_workers):
    assert global_batches(rank_steps(num_workers=num_workers)) == alone


@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_a_start_at_any_step_continues_the_same_global_batches(alone, num_workers):
    # Inside the first window, on both sides of the first window's end, and one step before the epoch's.
    starts = (0, 1, 30, 57, 58, 59, 100, len(alone) - 1)
    assert global_batches(rank_steps(num_workers=num_workers, starts=starts)) == alone


def padding_share(plan: Plan) -> float:
    """Share of the positions of an epoch's micro-batches that are padding."""
    parts = [
        LENGTHS[part]
        for step in range(plan.steps_per_epoch)
        for part in micro_batches(
            plan.rows(step), rank=0, world_size=1, num_micro_batches=BATCH_SIZE // MICRO_BATCH_SIZE
        )
    ]
    positions = sum(part.size * int(part.max()) for part in parts)
    return 1 - int(LENGTHS.sum()) / positions


def test_buckets_leave_less_padding(capsys):
    grouped, mixed = (padding_share(make_plan(group_by_length=group)) for group in (True, False))
    with capsys.disabled():
        figures = {"name": "plan.padding_share", "with_buckets": round(grouped, 4), "without": round(mixed, 4)}
        print(json.dumps(figures))  # noqa: T201
    assert grouped < 0.1 * mixed
    # Inside a bucket rows differ by at most three tokens, and a batch of sorted rows seldom spans two buckets.
    widest = 3 / LENGTHS.mean()
    assert grouped < widest


def test_a_micro_batch_of_a_grouped_batch_spans_few_buckets():
    plan = make_plan()
    spans = [int(np.ptp(length_bucket(LENGTHS[plan.rows(step)]))) for step in range(plan.steps_per_epoch)]
    assert np.mean(spans) < 1.5
