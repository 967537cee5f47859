"""A group of one process, in which collectives and DeepSpeed run without workers."""

import os
from collections.abc import Iterator

import pytest
import torch.distributed as dist

from raydistill.training.engine import prepare_environment


@pytest.fixture(scope="session")
def process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One for all tests of this process, since DeepSpeed goes on using the first that it met."""
    file = tmp_path_factory.mktemp("group") / "rendezvous"
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def one_rank(process_group: None) -> Iterator[None]:
    """The environment of a worker that is alone, as Ray Train makes it."""
    kept = dict(os.environ)
    prepare_environment(use_gpu=False)
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    yield
    os.environ.clear()
    os.environ.update(kept)
