"""When a step waits for its device: what of a device's values the host asks for between two logging steps."""

from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from traceback import extract_stack
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from integration.training.engine_settings import DirectSession, Recorder, batches_alone
from raydistill.tracking.tracker import NullTracker
from raydistill.training import worker
from raydistill.training.assembly import build_engine
from toys.training import make_spec, write_inputs

PACKAGE, DEEPSPEED = (Path(str(find_spec(name).origin)).parent for name in ("raydistill", "deepspeed"))

pytestmark = pytest.mark.usefixtures("one_rank")

MOST = {
    ("fp32", 0): 0,
    ("fp32", 1): 3,
    ("fp32", 2): 3,
    ("fp32", 3): 1,
    ("bf16", 0): 6,
    ("bf16", 1): 4,
    ("bf16", 2): 4,
    ("bf16", 3): 1,
}
"""Values that are read in a step of two parameter groups, all of them after the backward pass: whether gradients are
finite, and their norms, by which DeepSpeed decides on the host whether it steps."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    write_inputs(folder)
    return folder


class Reads(TorchDispatchMode):
    """Counts values that the host reads, by the part of the code that asks for them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            files = [Path(frame.filename) for frame in extract_stack()]
            asking = next(file for file in reversed(files) if {DEEPSPEED, PACKAGE} & {*file.parents})
            self.found["deepspeed" if DEEPSPEED in asking.parents else asking.name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("precision", "zero_stage"), MOST)
def test_a_step_reads_a_few_values_however_many_tensors_are_trained(inputs, precision, zero_stage):
    spec = make_spec(inputs, training={"precision": precision, "zero_stage": zero_stage})
    engine = build_engine(spec, num_workers=1, device=torch.device("cpu"))
    for batches in batches_alone(spec, num_steps=2):
        denominators = [engine.distiller.denominators(batch) for batch in batches]
        with Reads() as reads:
            engine.step(batches, denominators, learning_rate=1e-3)
    assert all(group["fused"] for group in engine._engine.optimizer.param_groups)
    engine.close()
    # The head's own backward pass looks at a number that lies on a CPU, and at none on a GPU.
    del reads.found["chunked_head.py"]
    assert set(reads.found) <= {"deepspeed", "engine.py"}
    assert reads.found.total() <= MOST[precision, zero_stage]


def test_the_next_step_is_prepared_between_the_last_pass_and_the_optimizer(inputs, monkeypatch):
    spec = make_spec(inputs)
    engine = build_engine(spec, num_workers=1, device=torch.device("cpu"))
    seen: list[str] = []
    wrapped = engine._engine
    for name in ("backward", "step"):
        own = getattr(wrapped, name)
        monkeypatch.setattr(wrapped, name, lambda *args, _own=own, _name=name: (seen.append(_name), _own(*args)))
    (batches,) = batches_alone(spec, num_steps=1)
    denominators = [engine.distiller.denominators(batch) for batch in batches]
    engine.step(batches, denominators, learning_rate=1e-3, meanwhile=lambda: seen.append("meanwhile"))
    assert seen == ["backward", "step"] * (len(batches) - 1) + ["backward", "meanwhile", "step"]
    engine.close()


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_gradient_that_is_no_finite_number_is_seen_in_any_tensor(inputs, value):
    spec = make_spec(inputs, training={"precision": "bf16", "batch_size": 3})
    engine = build_engine(spec, num_workers=1, device=torch.device("cpu"))
    trained = [parameter for parameter in engine.distiller.parameters() if parameter.requires_grad]
    checker = engine._engine.optimizer.overflow_checker
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    assert not checker.check()
    for parameter in (trained[0], trained[-1]):
        parameter.grad.flatten()[-1] = value
        assert checker.check()
        parameter.grad.zero_()
    engine.close()


class OnMeta:
    """Stands where an engine stands on a device whose values nobody can read."""

    def __init__(self, engine: Any) -> None:
        self.device, self.distiller = torch.device("meta"), engine.distiller.to("meta")
        for teacher in self.distiller.teachers:
            teacher.to("meta")

    def step(self, batches: Any, denominators: Any, *, meanwhile: Any, learning_rate: float) -> dict[str, torch.Tensor]:
        for batch, counts in zip(batches, denominators, strict=True):
            loss, terms = self.distiller(batch, counts)
            loss.backward()
        return {"loss": loss.detach(), **terms}


def test_the_loop_reads_no_value_between_two_logging_steps(inputs, tmp_path):
    spec = make_spec(inputs, training={"logging_steps": 3, "max_steps": 4})
    engine = build_engine(spec, num_workers=1, device=torch.device("cpu"))
    config = {"output": str(tmp_path), "tracker": NullTracker(), "run_key": "run", "board": Recorder()}
    loop = worker.Loop(spec, OnMeta(engine), config, rank=0, num_workers=1, session=DirectSession())
    logged: list[Any] = []
    loop._log = lambda totals, rate: logged.append(totals)
    loop._check_finite = lambda *_: None
    for batches in batches_alone(spec, num_steps=3):
        assert not logged
        loop._one_step([batch.to("meta") for batch in batches])
    assert len(logged) == 1
    engine.close()
