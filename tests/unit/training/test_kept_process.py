"""Which trainings run in a process that is kept."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import cloudpickle
from transformers.models.bert import modeling_bert

from raydistill.config.sections import ScalingConfig
from raydistill.training import kept_process
from raydistill.training.kept_process import KeptProcesses, is_kept


@pytest.mark.parametrize(
    ("scaling", "address", "kept"),
    [
        ({"num_workers": 1}, "", True),
        ({"num_workers": 1, "cpus_per_worker": 2}, "", True),
        ({"num_workers": 2}, "", False),
        ({"num_workers": 1, "use_gpu": True}, "", False),
        ({"num_workers": 1}, "10.0.0.1:6379", False),
    ],
)
def test_one_worker_on_the_cpus_of_this_machine_is_kept(
    scaling: dict[str, object], address: str, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert is_kept(ScalingConfig.model_validate(scaling)) is kept


def test_a_process_that_was_started_ahead_imports_the_models_of_this_one_and_trains_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []
    process = SimpleNamespace(
        prepare=SimpleNamespace(remote=lambda: asked.append("libraries")),
        know=SimpleNamespace(remote=lambda modules: asked.append([module.__name__ for module in modules])),
        train=SimpleNamespace(remote=lambda *_: "trained by it"),
    )
    monkeypatch.setattr(kept_process, "_start", lambda: process)
    monkeypatch.setattr(ray, "get", lambda answer: answer)
    ended: list[Any] = []
    monkeypatch.setattr(ray, "kill", ended.append)
    for name in [name for name in sys.modules if kept_process._MODELING.fullmatch(name)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, modeling_bert.__name__, modeling_bert)
    with KeptProcesses() as processes:
        processes.prepare()
        monkeypatch.setattr(kept_process, "_start", lambda: pytest.fail("another one was started"))
        assert processes._in_one(SimpleNamespace(), {}, 1) == "trained by it"  # type: ignore[arg-type]
    assert asked == ["libraries", [modeling_bert.__name__]]
    assert ended == [process]


def test_a_process_that_trains_imports_modules_by_getting_them_and_no_library_that_it_does_not_need() -> None:
    travelling = repr(cloudpickle.dumps([modeling_bert]))
    text = (
        "import pickle, sys; from raydistill.training.kept_process import KeptProcess; "
        f"kept = KeptProcess(); kept.prepare(); kept.know(pickle.loads({travelling})); "
        "names = ['deepspeed', 'transformers.models.bert.modeling_bert', 'mlflow', 'ray.train', 'ray.data']; "
        "print([name in sys.modules for name in names])"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[True, True, False, False, False]"
