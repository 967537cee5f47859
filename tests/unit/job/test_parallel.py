"""Runs of one stage side by side."""

import threading
import time

import pytest

from raydistill.job.parallel import run_together


def test_no_more_run_at_one_time_than_the_limit_and_all_run() -> None:
    active, most, done = set(), [0], []
    lock = threading.Lock()
    both = threading.Barrier(2, timeout=10)

    def call(number: int) -> None:
        with lock:
            active.add(number)
            most[0] = max(most[0], len(active))
        both.wait()
        with lock:
            active.discard(number)
            done.append(number)

    run_together([lambda number=number: call(number) for number in range(6)], limit=2)
    assert sorted(done) == list(range(6))
    assert most[0] == 2


def test_a_limit_of_one_runs_in_the_callers_thread_in_order() -> None:
    seen = []
    run_together([lambda n=n: seen.append((n, threading.current_thread())) for n in range(3)], limit=1)
    assert seen == [(n, threading.current_thread()) for n in range(3)]


def test_after_a_failure_none_is_started_and_those_that_run_are_finished() -> None:
    started = threading.Event()
    failed = threading.Event()
    finished = []

    def fails() -> None:
        started.wait(10)
        failed.set()
        raise ValueError("seed 1 failed")

    def runs() -> None:
        started.set()
        failed.wait(10)
        time.sleep(0.2)
        finished.append("second")

    with pytest.raises(ValueError, match="seed 1 failed"):
        run_together([fails, runs, lambda: finished.append("third")], limit=2)
    assert finished == ["second"]
