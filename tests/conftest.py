"""Which tests `make test` runs, in which order, and until when."""

import os
import time
from pathlib import Path

import pytest

# Several test processes share the machine; read when torch is imported, here and in processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where a training has two threads all the same, one that waits for the other leaves its core to other processes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

NOT_STARTED = "not started, since the run's time was over"
_started: set[str] = set()
"""Modules of which this process has run a test."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--start-until",
        type=float,
        metavar="TIMESTAMP",
        help="start no further module after this time, in seconds since 1970; skipped modules are listed",
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A slow machine ends a run in time and says what it left out, instead of being stopped with no result at all."""
    until, module = item.config.getoption("--start-until"), item.nodeid.partition("::")[0]
    if until is not None and module not in _started and time.time() > until:
        pytest.skip(NOT_STARTED)
    _started.add(module)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", ())
    left_out = [report.nodeid for report in skipped if NOT_STARTED in str(report.longrepr)]
    if left_out:
        modules = sorted({nodeid.partition("::")[0] for nodeid in left_out})
        terminalreporter.section(f"{len(left_out)} tests were {NOT_STARTED}")
        terminalreporter.write_line("\n".join(modules))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Toy models gain nothing by a second thread, and processes with two each wait for one another.

    Of each test: a training in the test's process sets as many as the machine has.
    """
    import torch

    torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the cluster as slow, and let the modules that take longest start first."""
    for item in items:
        if "ray_cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
    items.sort(key=_starts_late)


def _starts_late(item: pytest.Item) -> int:
    if item.get_closest_marker("core") is not None:
        return 0
    folder = Path(item.path).relative_to(Path(__file__).parent).parts[0]
    if folder == "unit" and item.get_closest_marker("slow") is not None:
        return 0
    return 1 if folder in ("integration", "cluster") else 2
