"""Checkpoints that StarK's code has reordered or cut give the published logits, or a line says what is wrong."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from raydistill.methods._unit_scores import row_gradients
from raydistill.models.conversion import to_safetensors
from raydistill.models.importance import EXPRESSIVENESS, ScoreSums, normalized
from raydistill.models.load import load_config, load_model
from raydistill.models.predictions import predict
from raydistill.models.pruning import kept_units, pruned
from toys.checkpoint import toy_tokenizer
from toys.stark import published_batch, published_folder, published_model, published_tensors

HEAD = "sequence_classification"
MAP = {
    "0": {"head": {}, "neuron": {}},
    "30": {"head": {"0": 1, "1": 1}, "neuron": {"0": 17, "1": 21}},
    "60": {"head": {"0": 3, "1": 2}, "neuron": {"0": 39, "1": 38}},
    "90": {"head": {"0": 3, "1": 4}, "neuron": {"0": 58, "1": 57}},
}
"""Of the specification's map, which the published code found for these weights."""
LOGITS = {
    "30": [0.213286, 0.318769, 0.317223, 0.153686, 0.155877, 0.304131],
    "60": [0.256970, 0.051094, 0.296606, 0.133703, 0.254789, 0.148988],
}
"""What the published code computed."""
PRINTED = 0.5e-6 + 3e-7
LAYER = "bert.encoder.layer"


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    model = published_model(tmp_path_factory.mktemp("published"))
    sums = ScoreSums(score_batch_size=32)
    sums.add(row_gradients(model, published_batch(), head=HEAD)[EXPRESSIVENESS], torch.arange(3))
    return model, normalized(sums.scores())


def reordered(scores: Any) -> dict[str, Tensor]:
    """The published tensors with each block's units by descending score, as ``reorder`` of the published code."""
    tensors = dict(published_tensors())
    for block in range(2):
        order = [one.sort(descending=True, stable=True).indices for one in (scores.heads[block], scores.neurons[block])]
        heads = (order[0][:, None] * 8 + torch.arange(8)).flatten()
        for names, units in (
            (("attention.self.query", "attention.self.key", "attention.self.value"), heads),
            (("intermediate.dense",), order[1]),
        ):
            for name in names:
                for kind in ("weight", "bias"):
                    tensors[f"{LAYER}.{block}.{name}.{kind}"] = tensors[f"{LAYER}.{block}.{name}.{kind}"][units]
        for name, units in (("attention.output.dense", heads), ("output.dense", order[1])):
            tensors[f"{LAYER}.{block}.{name}.weight"] = tensors[f"{LAYER}.{block}.{name}.weight"][:, units]
    return tensors


def rounded(width: int) -> int:
    return 8 * round(width / 8)


def densified(tensors: dict[str, Tensor], level: str) -> dict[str, Tensor]:
    """The leading blocks of the tensors, as ``sparsify`` and ``densify`` of the published code leave them."""
    made = dict(tensors)
    for block in range(2):
        width = 32 - rounded(8 * MAP[level]["head"][str(block)])
        neurons = 64 - rounded(MAP[level]["neuron"][str(block)])
        for name, kept in (
            *((f"attention.self.{one}", width) for one in ("query", "key", "value")),
            ("intermediate.dense", neurons),
        ):
            for kind in ("weight", "bias"):
                made[f"{LAYER}.{block}.{name}.{kind}"] = made[f"{LAYER}.{block}.{name}.{kind}"][:kept]
        for name, kept in (("attention.output.dense", width), ("output.dense", neurons)):
            made[f"{LAYER}.{block}.{name}.weight"] = made[f"{LAYER}.{block}.{name}.weight"][:, :kept]
    return made


def saved(folder: Path, tensors: dict[str, Tensor], *, sparsity: str, sparsity_map: Any = MAP) -> Path:
    published_folder(folder)
    (folder / "model.safetensors").unlink()
    toy_tokenizer().save_pretrained(folder)
    content = json.loads((folder / "config.json").read_text())
    written = {**content, "sparsity": sparsity, "sparsity_map": sparsity_map}
    (folder / "config.json").write_text(json.dumps(written))
    torch.save({name: tensor.clone() for name, tensor in tensors.items()}, folder / "pytorch_model.bin")
    return folder


def logits_of(folder: Path) -> Tensor:
    model = load_model(folder, head=HEAD, dtype=torch.float64)
    with torch.no_grad():
        return predict(model, published_batch(), head=HEAD).logits.flatten()


@pytest.mark.parametrize("level", LOGITS)
@pytest.mark.parametrize("is_cut", [False, True], ids=["whole with a map", "cut already"])
def test_a_level_of_the_map_and_a_densified_student_give_the_published_logits(
    scored: tuple[Any, Any], tmp_path: Path, level: str, is_cut: bool
) -> None:
    tensors = reordered(scored[1])
    if is_cut:
        later = {name: section for name, section in MAP.items() if int(name) >= int(level)}
        folder = saved(tmp_path / "published", densified(tensors, level), sparsity=level, sparsity_map=later)
        to_safetensors(folder, tmp_path / "made")
    else:
        to_safetensors(saved(tmp_path / "published", tensors, sparsity="0"), tmp_path / "made", sparsity=level)
    assert logits_of(tmp_path / "made").tolist() == pytest.approx(LOGITS[level], abs=PRINTED)
    assert not hasattr(load_config(tmp_path / "made"), "sparsity_map")


@pytest.mark.parametrize("is_cut", [False, True])
def test_a_block_without_heads_is_skipped_whatever_the_published_file_still_has(
    scored: tuple[Any, Any], tmp_path: Path, is_cut: bool
) -> None:
    model, scores = scored
    tensors = reordered(scores)
    if is_cut:
        folder = saved(tmp_path / "published", densified(tensors, "90"), sparsity="90")
        to_safetensors(folder, tmp_path / "made")
    else:
        to_safetensors(saved(tmp_path / "published", tensors, sparsity="0"), tmp_path / "made", sparsity="90")
    expected = pruned(model, kept_units(scores, 90, head_size=8, multiple_of=8))
    with torch.no_grad():
        wanted = predict(expected, published_batch(), head=HEAD).logits.flatten()
    torch.testing.assert_close(logits_of(tmp_path / "made"), wanted, atol=1e-12, rtol=0)


def test_a_whole_checkpoint_with_a_map_stays_whole_without_a_level(scored: tuple[Any, Any], tmp_path: Path) -> None:
    to_safetensors(saved(tmp_path / "published", reordered(scored[1]), sparsity="0"), tmp_path / "made")
    model, _ = scored
    with torch.no_grad():
        wanted = predict(model, published_batch(), head=HEAD).logits.flatten()
    torch.testing.assert_close(logits_of(tmp_path / "made"), wanted, atol=1e-12, rtol=0)


def without(content: dict[str, Any], *keys: str) -> dict[str, Any]:
    changed = copy.deepcopy(content)
    inner = changed
    for key in keys[:-1]:
        inner = inner[key]
    del inner[keys[-1]]
    return changed


@pytest.mark.parametrize(
    ("sparsity", "sparsity_map", "level", "message"),
    [
        ("0", MAP, "35", "sparsity is 35, but the checkpoint's sparsity_map has 0, 30, 60, 90; choose a level"),
        ("0", {}, "30", "the checkpoint's sparsity_map has no level"),
        ("0", without(MAP, "30", "head"), "30", "the checkpoint's sparsity_map says nothing of a head"),
        ("0", {"30": {"head": {"7": 1}, "neuron": {}}}, "30", "takes 1 of a head from block 7; it has blocks 0 to 1"),
        ("0", {"30": {"head": {"0": 5}, "neuron": {}}}, "30", "takes 5 of a head from block 0; .* of 4"),
        ("30", MAP, "30", "sparsity is 30, but the checkpoint is cut to 30 already; leave it out"),
        ("60", MAP, None, r"has bert\.encoder\.layer\.0\..* of shape \(24, 32\), its sparsity_map says \(8, 32\)"),
    ],
)
def test_a_map_that_does_not_fit_is_refused_by_what_is_wrong(
    scored: tuple[Any, Any], tmp_path: Path, sparsity: str, sparsity_map: Any, level: str | None, message: str
) -> None:
    tensors = reordered(scored[1]) if sparsity == "0" else densified(reordered(scored[1]), "30")
    folder = saved(tmp_path / "published", tensors, sparsity=sparsity, sparsity_map=sparsity_map)
    with pytest.raises(ValueError, match=message):
        to_safetensors(folder, tmp_path / "made", sparsity=level)
    assert not (tmp_path / "made").exists()
