"""A run of tests whose time is over, and one that has time."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULE = "tests/unit/test_atomic.py"


def run_until(timestamp: float) -> str:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", MODULE, "--start-until", str(timestamp)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("is_over", [True, False])
def test_a_module_is_started_until_the_time_is_over_and_then_listed(is_over: bool) -> None:
    told = run_until(time.time() + (-1 if is_over else 3600))
    assert ("tests were not started, since the run's time was over" in told) == is_over
    assert (" passed" in told) != is_over
    assert (f"\n{MODULE}\n" in told) == is_over
