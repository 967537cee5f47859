"""One local Ray cluster for all integration tests of a session: starting one, and its workers, is what costs time."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

NUM_CPUS = 4
OBJECT_STORE_BYTES = 300_000_000


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A running Ray with 4 logical CPUs, enough for 2 training workers and their data tasks."""
    with pytest.MonkeyPatch.context() as patch:
        # A test must never join, and so never disturb, a cluster that the developer works on.
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        # Workers import the toy models and the functions that tests hand them, and the package from where tests do.
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)
        import ray

        ray.init(
            address="local",
            num_cpus=NUM_CPUS,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
        )
        yield
        ray.shutdown()
