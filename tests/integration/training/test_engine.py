"""One loss curve under every ZeRO stage, number of workers and placement of the teacher."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from integration.training.engine_settings import direct_feed, run_settings
from raydistill.data.stream import FeedSpec
from raydistill.models.layer_selection import freeze_position_embeddings
from raydistill.models.load import load_model
from raydistill.optim.parameter_groups import parameter_groups
from raydistill.optim.schedules import linear_warmup_decay
from toy_training import make_spec, write_inputs

STAGES = (0, 1, 2, 3)
PLACEMENTS = ("replicate", "zero3")
SETTINGS: dict[str, dict[str, Any]] = {
    f"zero{stage}-{placement}": {"placement": placement, "training": {"zero_stage": stage}}
    for stage in STAGES
    for placement in PLACEMENTS
}
BREAKING = {
    "training": {"max_steps": 4},
    "optimizer": {"learning_rate": 1e30, "warmup_proportion": 0.0, "max_grad_norm": 1e30},
}
PER_MICRO_BATCH = {"training": {"loss_normalization": "per_micro_batch"}}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    write_inputs(folder)
    return folder


def _run_group(folder: Path, *, num_workers: int, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """What each rank of one worker group saw, by setting."""
    name = f"group-{num_workers}"
    TorchTrainer(
        run_settings,
        train_loop_config={"folder": str(folder), "name": name, "settings": settings},
        scaling_config=ScalingConfig(num_workers=num_workers, resources_per_worker={"CPU": 1}),
        torch_config=TorchConfig(backend="gloo"),
        run_config=RunConfig(name=name, storage_path=str(folder / "runs")),
    ).fit()
    return [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(num_workers)]


@pytest.fixture(scope="module")
def one_worker(inputs: Path, ray_cluster: None) -> dict[str, Any]:
    settings = {**SETTINGS, "breaking": BREAKING}
    return _run_group(inputs, num_workers=1, settings=settings)[0]


@pytest.fixture(scope="module")
def two_workers(inputs: Path, ray_cluster: None) -> list[dict[str, Any]]:
    settings = {**SETTINGS, "breaking": BREAKING, "per_micro_batch": PER_MICRO_BATCH}
    return _run_group(inputs, num_workers=2, settings=settings)


@pytest.fixture(scope="module")
def plain(inputs: Path) -> list[float]:
    """Losses of the same steps in plain PyTorch: whole global batches, no engine."""
    spec = make_spec(inputs)
    student = load_model(spec.student, head="masked_lm", dropout=0.0).train()
    freeze_position_embeddings(student)
    teacher = load_model(spec.teachers[0].folder, head="masked_lm")
    method = spec.method.module.Method(spec.method.config, student, [teacher])
    settings = spec.optimizer
    optimizer = torch.optim.AdamW(
        parameter_groups(method, weight_decay=settings.weight_decay), betas=settings.betas, eps=settings.epsilon
    )
    feed_spec = FeedSpec.make(
        spec.corpus, spec.task, spec.method, seed=spec.seed, batch_size=spec.training.batch_size, num_micro_batches=1
    )
    losses = []
    for step, (batch,) in enumerate(direct_feed(feed_spec, rank=0, world_size=1, stop_step=10)):
        loss, _ = method(batch, method.denominators(batch))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), settings.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * linear_warmup_decay(step, num_steps=10, warmup_proportion=0.2)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_the_loss_moves_enough_to_show_a_difference(plain: list[float]) -> None:
    assert len(plain) == 10
    assert max(plain) - min(plain) > 0.1


@pytest.mark.parametrize("setting", SETTINGS)
def test_one_worker_gives_the_losses_of_plain_pytorch(one_worker: dict, plain: list[float], setting: str) -> None:
    assert one_worker[setting]["losses"] == pytest.approx(plain, abs=1e-4)


@pytest.mark.parametrize("setting", SETTINGS)
def test_two_workers_give_the_losses_of_plain_pytorch(two_workers: list, plain: list[float], setting: str) -> None:
    assert two_workers[0][setting]["losses"] == pytest.approx(plain, abs=1e-4)


def test_held_out_losses_agree_between_settings(one_worker: dict, two_workers: list) -> None:
    found = [seen[setting]["held_out"] for seen in (one_worker, two_workers[0]) for setting in SETTINGS]
    assert math.isfinite(found[0])
    assert found == pytest.approx([found[0]] * len(found), abs=1e-4)


def test_each_rank_holds_half_of_a_sharded_teacher(one_worker: dict, two_workers: list) -> None:
    whole = one_worker["zero0-replicate"]["teacher_numel"]
    for rank in (0, 1):
        assert two_workers[rank]["zero2-replicate"]["teacher_numel"] == whole
        # Shares are padded to equal sizes, a few elements for each parameter.
        assert two_workers[rank]["zero2-zero3"]["teacher_numel"] == pytest.approx(whole / 2, rel=0.02)
        assert two_workers[rank]["zero3-zero3"]["teacher_numel"] == pytest.approx(whole / 2, rel=0.02)


def test_a_loss_that_is_no_number_names_the_term_on_every_rank(one_worker: dict, two_workers: list) -> None:
    for seen in (one_worker, *two_workers):
        failure = seen["breaking"]["failure"]
        assert failure.startswith("the term ")
        assert "'loss'" not in failure
        assert "optimizer.learning_rate" in failure


def test_normalization_per_micro_batch_is_another_mean(two_workers: list, plain: list[float]) -> None:
    losses = two_workers[0]["per_micro_batch"]["losses"]
    # Parts of a batch hold different numbers of tokens, so their mean of means is near the mean, and not equal to it.
    assert losses[0] == pytest.approx(plain[0], rel=0.2)
    assert abs(losses[0] - plain[0]) > 1e-4
