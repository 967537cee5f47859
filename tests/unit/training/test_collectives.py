"""Sums over the workers of a training."""

import pytest
import torch
import torch.distributed as dist

from raydistill.training.collectives import add_up


def reduced(monkeypatch: pytest.MonkeyPatch, *, num_workers: int) -> torch.Tensor:
    """A tensor of ones that was added up, where a collective doubles what it is given."""
    monkeypatch.setattr(dist, "get_world_size", lambda: num_workers)
    monkeypatch.setattr(dist, "all_reduce", lambda values: values.mul_(2))
    values = torch.ones(3)
    add_up(values)
    return values


def test_several_workers_add_up_what_they_have(monkeypatch):
    assert reduced(monkeypatch, num_workers=2).tolist() == [2, 2, 2]


def test_a_worker_that_is_alone_starts_no_collective(monkeypatch):
    assert reduced(monkeypatch, num_workers=1).tolist() == [1, 1, 1]
