"""Which tests `make test` runs, and in which order."""

import os
from pathlib import Path

import pytest

# Two test processes share the machine; read when torch is imported, here and in processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Toy models gain nothing by a second thread, and two processes with two each wait for one another.

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
    return 1 if folder in ("integration", "cluster") else 2
