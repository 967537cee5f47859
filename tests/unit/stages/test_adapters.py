"""A folder with an adapter alone is read as the sum with its base, wherever a model is named."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from raydistill.config.sections import LoraConfig, ModelRef
from raydistill.models.load import load_model, save_model
from raydistill.models.lora import add_adapters, merged, save_adapter
from raydistill.stages import _models
from raydistill.stages._base import Input
from toys.checkpoint import toy_tokenizer
from toys.models import toy_bert

pytest.importorskip("peft")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYDISTILL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """A finished stage whose student was kept as an adapter of ``initial``."""
    model, folder = toy_bert(2, dtype=torch.float32), tmp_path / "stage"
    save_model(model.eval(), toy_tokenizer(), folder / "initial")
    options = LoraConfig(r=2)
    around = add_adapters(model, options, seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.fill_(0.1)
    save_adapter(around, options, base=folder / "initial", folder=folder / "student")
    save_model(merged(around), toy_tokenizer(), tmp_path / "expected")
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    model: Any = load_model(folder, head="masked_lm")
    found: dict[str, torch.Tensor] = model.state_dict()
    return found


@pytest.mark.parametrize("is_stage", [True, False])
def test_a_reference_to_an_adapter_is_one_to_the_merged_model(stage: Path, tmp_path: Path, is_stage: bool) -> None:
    reference = ModelRef(checkpoint="distill" if is_stage else str(stage / "student"))
    inputs = {"distill": Input(folder=stage)} if is_stage else {}
    model = _models.model_of("model", reference, inputs)
    assert model.folder is not None
    assert (model.config.model_type, model.tokenizer_hash) == ("bert", _models.hash_of_folder(stage / "initial"))
    found, expected = weights(model.folder), weights(tmp_path / "expected")
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    before = weights(stage / "initial")
    assert any(not torch.equal(tensor, before[name]) for name, tensor in found.items())
    again = _models.resolve(reference, inputs)
    assert again == model.folder


def refusal(folder: Path) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        _models.resolve(ModelRef(checkpoint=str(folder)), {})
    [line] = str(caught.value).splitlines()
    return line


def test_a_missing_base_is_named_in_one_line(stage: Path) -> None:
    base = stage / "initial"
    base.rename(stage / "elsewhere")
    assert refusal(stage / "student") == (
        f"checkpoint is {str(stage / 'student')!r}, an adapter of {str(base)!r}, which is missing (no plain model lies "
        "there); put the base there, or correct base_model_name_or_path in its adapter_config.json"
    )


def test_pickled_weights_are_never_read(stage: Path) -> None:
    file = stage / "student" / "adapter_model.safetensors"
    file.rename(file.with_name("adapter_model.bin"))
    assert refusal(stage / "student").endswith("pickled weights are not read, save the adapter again")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "is an adapter of kind IA3; only LORA is read, merge it first"),
        ({"base_model_name_or_path": None}, "names no base_model_name_or_path; write the folder of its base there"),
    ],
)
def test_another_kind_and_an_unnamed_base_are_refused(stage: Path, changes: dict[str, Any], message: str) -> None:
    file = stage / "student" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    assert refusal(stage / "student").endswith(message)


def test_an_adapter_of_an_adapter_is_refused(stage: Path) -> None:
    file = stage / "student" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": str(stage / "student")}))
    assert "no plain model lies there" in refusal(stage / "student")
