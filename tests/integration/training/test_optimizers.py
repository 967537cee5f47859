"""Optimizers, schedules and frozen parts as a training under DeepSpeed has them, in a group of one process."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from integration.training.engine_settings import DirectSession, Recorder, batches_alone
from raydistill.methods._base import Distiller
from raydistill.tracking.tracker import NullTracker
from raydistill.training import worker
from raydistill.training.assembly import build_engine
from raydistill.training.engine import Engine
from raydistill.training.history import read_history
from raydistill.training.result import TrainResult
from toys.training import make_spec, write_inputs

BERT_ADAM = {"name": "bert_adam", "betas": [0.9, 0.999], "max_grad_norm": 0.05, "weight_decay": 0.01}
HF4 = {"name": "adamw_hf4", "weight_decay": 0.01}


pytestmark = pytest.mark.usefixtures("one_rank")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    write_inputs(folder)
    return folder


def totals(distiller: Distiller, batches: list[Any]) -> dict[str, torch.Tensor]:
    counts = [distiller.denominators(batch) for batch in batches]
    return {name: torch.stack([count[name].double() for count in counts]).sum() for name in counts[0]}


class WrittenOut:
    """BertAdam's update of a distiller, one tensor at a time, from the gradients of whole steps."""

    def __init__(self, distiller: Distiller, *, max_grad_norm: float) -> None:
        self.distiller, self.max_grad_norm = distiller, max_grad_norm
        self.parameters = {name: p for name, p in distiller.named_parameters() if p.requires_grad}
        self.exp_avg = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.exp_avg_sq = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.num_clipped: list[int] = []

    def step(self, batches: list[Any], *, learning_rate: float) -> None:
        self.distiller.train()
        denominators = totals(self.distiller, batches)
        for batch in batches:
            self.distiller(batch, denominators)[0].backward()
        norms = {name: p.grad.norm().item() for name, p in self.parameters.items()}
        self.num_clipped.append(sum(norm > self.max_grad_norm for norm in norms.values()))
        for name, parameter in self.parameters.items():
            gradient = parameter.grad * min(1.0, self.max_grad_norm / (norms[name] + 1e-6))
            self.exp_avg[name] = 0.9 * self.exp_avg[name] + 0.1 * gradient
            self.exp_avg_sq[name] = 0.999 * self.exp_avg_sq[name] + 0.001 * gradient**2
            update = self.exp_avg[name] / (self.exp_avg_sq[name].sqrt() + 1e-6)
            if not (name.endswith("bias") or "norm" in name.lower()):
                update = update + 0.01 * parameter.detach()
            parameter.data -= learning_rate * update
            parameter.grad = None


def test_a_step_of_bert_adam_clips_each_tensor_and_nothing_else_does(inputs: Path) -> None:
    spec = make_spec(inputs, optimizer=BERT_ADAM)
    engine = build_engine(spec, num_workers=1, device=torch.device("cpu"))
    plain = build_engine(spec, num_workers=1, device=torch.device("cpu"))
    written_out = WrittenOut(plain.distiller, max_grad_norm=0.05)
    for batches in batches_alone(spec, num_steps=3):
        engine.step(batches, [totals(engine.distiller, batches)] * len(batches), learning_rate=1e-3)
        written_out.step(batches, learning_rate=1e-3)
    num_tensors = len(written_out.parameters)
    # Some are scaled down and some are not; all together would be, in every step.
    assert all(0 < clipped < num_tensors for clipped in written_out.num_clipped)
    for name, parameter in written_out.parameters.items():
        masters = engine._masters
        for key, expected in (("exp_avg", written_out.exp_avg), ("exp_avg_sq", written_out.exp_avg_sq)):
            torch.testing.assert_close(masters.gather(name, key), expected[name], rtol=1e-4, atol=1e-9)
        torch.testing.assert_close(masters.gather(name, None), parameter.detach(), rtol=0, atol=1e-5)
    for made in (engine, plain):
        made.close()


def train(inputs: Path, output: Path, *, resume: Path | None = None, **sections: Any) -> list[dict[str, float]]:
    """Run a whole training without Ray; leaves its result, its student and ``state-<step>`` in ``output``."""
    spec = make_spec(inputs, **sections)
    spec = spec.model_copy(update=sections.get("spec", {}))
    output.mkdir()

    def save(engine: Engine, state: dict[str, Any]) -> None:
        folder = output / f"state-{state['position']['step']}"
        folder.mkdir()
        engine.save(folder, state)

    engine = build_engine(spec, num_workers=1, device=torch.device("cpu"))
    config = {"output": str(output), "tracker": NullTracker(), "run_key": "", "board": Recorder()}
    session = DirectSession(loaded=resume, save=save)
    worker.Loop(spec, engine, config, rank=0, num_workers=1, session=session).run()
    engine.close()
    return [line for line in read_history(output) if "train/loss" in line]


@pytest.mark.parametrize(("optimizer", "stage"), [(BERT_ADAM, 0), (HF4, 0), (HF4, 2)])
def test_a_resumed_training_is_the_undisturbed_one_to_the_last_bit(
    inputs: Path, tmp_path: Path, optimizer: dict[str, Any], stage: int
) -> None:
    sections = {"training": {"max_steps": 6, "save_steps": 3, "zero_stage": stage}, "optimizer": optimizer}
    undisturbed = train(inputs, tmp_path / "undisturbed", **sections)
    resumed = train(inputs, tmp_path / "resumed", resume=tmp_path / "undisturbed" / "state-3", **sections)
    assert [line["step"] for line in resumed] == [4, 5, 6]
    assert [line["train/loss"] for line in resumed] == [line["train/loss"] for line in undisturbed[3:]]
    found, expected = (load_file(tmp_path / run / "student/model.safetensors") for run in ("resumed", "undisturbed"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_training_that_stops_after_epochs_keeps_the_schedule_of_all_of_them(inputs: Path, tmp_path: Path) -> None:
    history = train(
        inputs,
        tmp_path / "out",
        training={"max_steps": None, "num_epochs": 4, "stop_after_epochs": 3, "batch_size": 30, "micro_batch_size": 15},
        optimizer={**BERT_ADAM, "learning_rate": 0.01, "schedule": "linear_squared", "warmup_proportion": 0.25},
    )
    # 3 of the 12 steps warm up.
    multipliers = [step / 3 if step < 3 else (12 - step) / 9 for step in range(9)]
    assert [line["learning_rate"] for line in history] == pytest.approx([0.01 * m**2 for m in multipliers])
    result = TrainResult.read(tmp_path / "out")
    assert (result.step, result.stopped) == (9, "training.stop_after_epochs is 3")


def test_frozen_blocks_and_embeddings_stay_and_the_rest_is_trained(inputs: Path, tmp_path: Path) -> None:
    # The projection is tied to the embeddings, but for its bias.
    frozen = ("distilbert.embeddings.", "distilbert.transformer.layer.1.", "vocab_projector.weight")
    train(
        inputs,
        tmp_path / "out",
        training={"max_steps": 3},
        optimizer={"weight_decay": 0.1, "warmup_proportion": 0.0},
        spec={"freeze_layers": [1], "freeze_embeddings": True},
    )
    before, after = (load_file(folder / "student/model.safetensors") for folder in (inputs, tmp_path / "out"))
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert still == {name for name in before if name.startswith(frozen)}
    assert any(name.startswith(frozen[0]) for name in still)
