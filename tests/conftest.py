"""Which tests `make test` runs, and which of them share a process."""

import os
from pathlib import Path

import pytest

# Two test processes share the machine; read when torch is imported, here and in processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_RAY = "ray"
"""Group of the tests on the shared Ray cluster, so that one is started."""


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Toy models gain nothing by a second thread, and two processes with two each wait for one another."""
    import torch

    torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the cluster as slow, and keep together what shares fixtures: a module, or the cluster.

    The groups are handed out in this order, so those that take longest come first.
    """
    for item in items:
        on_cluster = "ray_cluster" in getattr(item, "fixturenames", ())
        if on_cluster:
            item.add_marker(pytest.mark.slow)
        item.add_marker(pytest.mark.xdist_group(_RAY if on_cluster and _is_core(item) else _module(item)))
    items.sort(key=_starts_late)


def _is_core(item: pytest.Item) -> bool:
    return item.get_closest_marker("core") is not None


def _module(item: pytest.Item) -> str:
    return Path(item.path).relative_to(Path(__file__).parent).as_posix()


def _starts_late(item: pytest.Item) -> int:
    if _is_core(item):
        return 0
    return 1 if _module(item).startswith(("integration", "cluster")) else 2
