"""Trainings of adapters: interrupted and continued, and saved as a plain model or as adapters alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from raydistill.config.sections import LoraConfig, ModelRef
from raydistill.models.load import load_model, tensor_names
from raydistill.stages import _models
from raydistill.training.in_process import train_here
from raydistill.training.spec import TrainSpec
from toys.training import FileTracker, make_spec, write_inputs

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.usefixtures("one_rank")
STOP = 2


class StoppedError(Exception):
    """Raised where a training ends before its time."""


def spec_of(folder: Path, *, save: str, precision: str = "fp32") -> TrainSpec:
    training = {
        "max_steps": 4,
        "save_steps": 2,
        "eval_steps": 2,
        "precision": precision,
        "gradient_checkpointing": True,
    }
    lora = LoraConfig.model_validate({"r": 2, "dropout": 0.2, "save": save})
    return make_spec(folder, training=training).model_copy(update={"lora": lora})


def interrupt(step: int, *_: Any) -> None:
    if step == STOP:
        raise StoppedError


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, one_rank: None) -> Path:
    """Students of three runs of the same training, one of which was interrupted; and one in half precision."""
    folder = tmp_path_factory.mktemp("adapters")
    write_inputs(folder)
    settings = {"merged": "merged", "adapter": "adapter", "continued": "merged", "half": "merged"}
    for name, save in settings.items():
        spec = spec_of(folder, save=save, precision="bf16" if name == "half" else "fp32")
        run = [spec, str(folder / name), FileTracker(folder / f"{name}.jsonl"), "run"]
        (folder / name).mkdir()
        if name == "continued":
            with pytest.raises(StoppedError):
                train_here(*run, callback=interrupt)
        train_here(*run)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    model: Any = load_model(folder, head="masked_lm")
    found: dict[str, torch.Tensor] = model.state_dict()
    return found


def test_a_continued_training_of_adapters_ends_with_the_same_student(runs: Path) -> None:
    whole, continued = (weights(runs / name / "student") for name in ("merged", "continued"))
    assert all(torch.equal(tensor, continued[name]) for name, tensor in whole.items())


@pytest.mark.parametrize("name", ["merged", "half"])
def test_the_merged_student_is_a_plain_model_whose_linear_layers_of_blocks_alone_were_trained(
    runs: Path, name: str
) -> None:
    assert tensor_names(runs / name / "student") == tensor_names(runs / "student")
    before, after = weights(runs / "student"), weights(runs / name / "student")
    changed = {key for key, tensor in before.items() if not torch.equal(tensor, after[key])}
    linear = ("q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2", "vocab_transform")
    assert changed == {key for key in before if key.endswith(tuple(f"{one}.weight" for one in linear))}


def test_a_student_kept_as_adapters_names_its_base_and_is_read_as_the_merged_one(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYDISTILL_CACHE", str(tmp_path))
    folder = runs / "adapter" / "student"
    assert not (folder / "config.json").exists()
    assert all(".lora_" in name for name in load_file(folder / "adapter_model.safetensors"))
    assert peft.PeftConfig.from_pretrained(folder).base_model_name_or_path == str(runs / "student")
    found = weights(_models.resolve(ModelRef(checkpoint=str(folder)), {}))
    expected = weights(runs / "merged" / "student")
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)


def test_checkpoints_hold_adapters_alone(runs: Path) -> None:
    [state] = list((runs / "merged").rglob("*2*/state.json"))[:1]
    parameters = json.loads(state.read_text())["parameters"]
    assert parameters
    assert all(".lora_" in name for name in parameters)
