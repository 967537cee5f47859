"""Weights that a stage could not load are refused from their headers, before any is loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from raydistill.config.named import TaskSpec
from raydistill.config.sections import ModelRef
from raydistill.models.checks import check_weights
from raydistill.models.load import load_model
from raydistill.stages import _models
from raydistill.stages._base import CorpusFacts
from toys.capture import save_teacher
from toys.classifiers import CLASSES

HEAD = "sequence_classification"
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "teacher"
    save_teacher(folder, seed=0, labels=CLASSES)
    return folder


@pytest.fixture
def folder(teacher: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(teacher, tmp_path / "model"))


def only_bin(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def truncated(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def in_shards(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    parts = {f"model-0000{place + 1}-of-00002.safetensors": sorted(tensors)[place::2] for place in range(2)}
    for file, names in parts.items():
        save_file({name: tensors[name] for name in names}, folder / file, metadata={"format": "pt"})
    listed = {name: file for file, names in parts.items() for name in names}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": listed}))


def missing_shard(folder: Path) -> None:
    in_shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def no_index(folder: Path) -> None:
    in_shards(folder)
    (folder / INDEX).unlink()


def no_json(folder: Path) -> None:
    in_shards(folder)
    (folder / INDEX).write_text("{")


def two_outputs(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    head = {name: tensor[:2].clone() for name, tensor in tensors.items() if name.startswith("classifier.")}
    save_file({**tensors, **head}, folder / "model.safetensors", metadata={"format": "pt"})


def other_width(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": config["intermediate_size"] * 2}))


DAMAGE = [
    (only_bin, r"has no \.safetensors file; raydistill convert writes one from a pytorch_model\.bin"),
    (empty, r"model\.safetensors' is damaged \(.*\); fetch the checkpoint again"),
    (truncated, r"model\.safetensors' is damaged \(.*\); fetch the checkpoint again"),
    (missing_shard, r"lacks model-00002-of-00002\.safetensors, or a part of it, which model\.safetensors\.index\.json"),
    (no_index, r"has model-00001-of-00002\.safetensors, but no model\.safetensors and no model\.safetensors\.index"),
    (no_json, r"index\.json' is not an index of weights \(.*\); fetch the checkpoint again"),
    (other_width, r"intermediate\.dense\.(bias|weight) of shape \(.*\), its config\.json says \(.*\); correct it"),
]


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_weights_that_cannot_be_loaded_are_refused_with_any_head(
    folder: Path, damage: Callable[[Path], None], message: str, new: bool
) -> None:
    damage(folder)
    with pytest.raises(ValueError, match=message):
        check_weights(folder, head=HEAD, allow_new_head=new)


def test_names_of_three_classes_with_weights_of_two_are_refused_where_the_head_is_kept(folder: Path) -> None:
    two_outputs(folder)
    with pytest.raises(
        ValueError, match=r"has classifier\.bias of shape \(2,\), its config\.json says \(3,\); correct"
    ):
        check_weights(folder, head=HEAD)
    check_weights(folder, head=HEAD, allow_new_head=True)
    assert load_model(folder, head=HEAD, labels=CLASSES, allow_new_head=True) is not None


def test_whole_weights_in_one_file_or_in_several_are_taken(folder: Path) -> None:
    check_weights(folder, head=HEAD)
    in_shards(folder)
    check_weights(folder, head=HEAD)
    assert load_model(folder, head=HEAD) is not None


def test_an_encoder_without_a_head_is_taken_for_a_new_one(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("bert."): one for name, one in tensors.items() if name.startswith("bert.")}
    save_file(bare, folder / "model.safetensors", metadata={"format": "pt"})
    check_weights(folder, head=HEAD, allow_new_head=True)
    assert load_model(folder, head=HEAD, allow_new_head=True) is not None


@pytest.mark.parametrize("head", ["pretrained", "new"])
def test_a_stages_plan_looks_at_the_weights_and_tells_the_key(folder: Path, head: str) -> None:
    truncated(folder)
    reference = ModelRef.model_validate({"checkpoint": str(folder), "head": head})
    corpus = CorpusFacts("classification", 61, 40, labels=CLASSES)
    with pytest.raises(ValueError, match=r"^student\.checkpoint: .*model\.safetensors' is damaged"):
        _models.fitted("student.checkpoint", reference, {}, task=TaskSpec.parse("classification"), corpus=corpus)
