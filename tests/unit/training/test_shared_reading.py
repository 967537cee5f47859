"""Who reads for the data tasks of a training, without Ray: what workers are told, and what they hand to their feed."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.train
import ray.train.torch

from raydistill.data import shared_reader
from raydistill.tracking.tracker import NullTracker
from raydistill.training import group as worker_group
from raydistill.training import scaling, trainer
from toys.training import make_spec, write_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


@pytest.mark.parametrize(("num_workers", "kept", "expected"), [(2, 0, "reader"), (2, 10**9, None), (1, 0, None)])
def test_workers_are_told_of_a_reader_that_is_worth_sharing(inputs, monkeypatch, num_workers, kept, expected):
    told: dict[str, Any] = {}

    def group(entry: Any, *, train_loop_config: dict[str, Any], **_: Any) -> Any:
        told.update(train_loop_config)
        return SimpleNamespace(fit=lambda: SimpleNamespace(return_value=""))

    monkeypatch.setattr(shared_reader, "CACHE_BYTES", kept)
    monkeypatch.setattr(trainer, "shared_reader", lambda: nullcontext("reader"))
    monkeypatch.setattr(ray.train.torch, "TorchTrainer", group)
    monkeypatch.setattr(scaling, "ray_scaling", lambda _: None)
    monkeypatch.setattr(trainer, "_run_config", lambda *_: None)
    monkeypatch.setattr(trainer, "follow", lambda spec, output, fit, parallel: fit("board"))
    trainer.train(make_spec(inputs, num_workers=num_workers), "out", NullTracker(), "run")
    assert told["reader"] == expected


def test_a_worker_hands_the_reader_to_its_feed(inputs, monkeypatch):
    found: list[Any] = []
    monkeypatch.setattr(worker_group, "feed", lambda spec, **options: found.append((spec, options)))
    monkeypatch.setattr(worker_group, "prepare_environment", lambda use_gpu: None)
    monkeypatch.setattr(worker_group, "build_engine", lambda *_, **__: None)
    context = SimpleNamespace(get_world_rank=lambda: 1, get_world_size=lambda: 2)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    monkeypatch.setattr(ray.train.torch, "get_device", lambda: None)

    class Feeding:
        def __init__(self, *_: Any, session: Any, **__: Any) -> None:
            self.session = session

        def run(self) -> None:
            self.session.feed("spec", rank=1)

    monkeypatch.setattr(worker_group, "Loop", Feeding)
    worker_group.train_worker({"spec": make_spec(inputs, num_workers=2), "num_threads": 1, "reader": "reader"})
    assert found == [("spec", {"reader": "reader", "rank": 1})]
