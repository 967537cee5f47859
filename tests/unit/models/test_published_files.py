"""Files of weights that published code leaves become checkpoints, or are refused by what is wrong with them."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM, DistilBertConfig, DistilBertForMaskedLM
from typer.testing import CliRunner

from raydistill.cli import app
from raydistill.models.layer_plan import make_plan, plan_of
from raydistill.models.load import load_config, load_model
from raydistill.models.predictions import predict
from raydistill.models.published_files import file_to_safetensors
from toys.checkpoint import toy_tokenizer
from toys.classifiers import toy_classifier, toy_labelled_batch
from toys.models import toy_bert

LABELS = ["entailment", "not_entailment"]
SIZES = {"vocab_size": 61, "max_position_embeddings": 40}
DISTILBERT = {"dim": 16, "hidden_dim": 32, "n_heads": 2, "n_layers": 6, "sinusoidal_pos_embds": True, **SIZES}
"""As published such a file names no type of a model."""


@pytest.fixture
def pea(tmp_path: Path) -> tuple[Path, nn.Module]:
    """The folder of a run of Pea-KD, whose student has 2 blocks, and the student."""
    run = tmp_path / "run-1"
    run.mkdir()
    model: Any = toy_classifier(toy_bert, 2, labels=LABELS, dtype=torch.float32).eval()
    tensors = model.state_dict()
    encoder = {name: tensor for name, tensor in tensors.items() if not name.startswith("classifier.")}
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): tensor for name, tensor in encoder.items()}
    torch.save(old, run / "BERT.encoder_acc.pkl")
    of_head = {name: tensor for name, tensor in tensors.items() if name not in encoder}
    torch.save(of_head, run / "BERT.cls_acc.pkl")
    base = tmp_path / "bert-base-uncased"
    base.mkdir()
    # Pretrained, of 12 blocks, under the name that it had.
    (base / "bert_config.json").write_text(json.dumps({**model.config.to_dict(), "num_hidden_layers": 12}))
    toy_tokenizer().save_pretrained(base)
    return run, model


def logits_of(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return predict(model, toy_labelled_batch("classes"), head="sequence_classification").logits


def test_an_encoder_and_its_classifier_become_one_checkpoint(pea: tuple[Path, nn.Module], tmp_path: Path) -> None:
    run, model = pea
    made = file_to_safetensors(
        run / "BERT.encoder_acc.pkl", tmp_path / "new", config=tmp_path / "bert-base-uncased", labels=LABELS
    )
    assert made.lacks == ()
    found = load_model(tmp_path / "new", head="sequence_classification", labels=LABELS)
    assert torch.equal(logits_of(found), logits_of(model))
    assert (tmp_path / "new" / "tokenizer.json").is_file()


def test_shared_blocks_run_as_the_named_plan_says(pea: tuple[Path, nn.Module], tmp_path: Path) -> None:
    run, _ = pea
    file_to_safetensors(
        run / "BERT.encoder_acc.pkl",
        tmp_path / "new",
        config=tmp_path / "bert-base-uncased" / "bert_config.json",
        layer_plan="sps",
    )
    assert plan_of(load_config(tmp_path / "new")) == make_plan("sps", 2)


@pytest.fixture
def extracted(tmp_path: Path) -> tuple[Path, Path, nn.Module]:
    """A file as ``extract_distilbert.py`` makes one, its configuration, and the teacher that it is of."""
    teacher: Any = BertForMaskedLM(
        BertConfig(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, **SIZES)
    )
    of_teacher = teacher.state_dict()
    tensors = {}
    for part in ("word_embeddings.weight", "position_embeddings.weight", "LayerNorm.weight", "LayerNorm.bias"):
        tensors[f"distilbert.embeddings.{part}"] = of_teacher[f"bert.embeddings.{part}"]
    parts = {
        **{f"attention.self.{one}": f"attention.{one[0]}_lin" for one in ("query", "key", "value")},
        "attention.output.dense": "attention.out_lin",
        "attention.output.LayerNorm": "sa_layer_norm",
        "intermediate.dense": "ffn.lin1",
        "output.dense": "ffn.lin2",
        "output.LayerNorm": "output_layer_norm",
    }
    for block, of_block in enumerate((0, 2)):
        for was, name in parts.items():
            for kind in ("weight", "bias"):
                source = of_teacher[f"bert.encoder.layer.{of_block}.{was}.{kind}"]
                tensors[f"distilbert.transformer.layer.{block}.{name}.{kind}"] = source
    tensors["vocab_projector.weight"] = of_teacher["cls.predictions.decoder.weight"]
    tensors["vocab_projector.bias"] = of_teacher["cls.predictions.bias"]
    torch.save(tensors, tmp_path / "tf_bert-base-uncased.pth")
    # The published example names the configuration of 9 blocks beside the weights of 6.
    (tmp_path / "distilbert.json").write_text(json.dumps(DISTILBERT))
    return tmp_path / "tf_bert-base-uncased.pth", tmp_path / "distilbert.json", teacher


def test_an_extracted_student_has_the_blocks_of_its_file_and_lacks_the_transform_alone(
    extracted: tuple[Path, Path, nn.Module], tmp_path: Path
) -> None:
    file, config, teacher = extracted
    made = file_to_safetensors(file, tmp_path / "new", config=config)
    transform = {f"vocab_{part}.{kind}" for part in ("transform", "layer_norm") for kind in ("weight", "bias")}
    assert set(made.lacks) == transform
    model: Any = load_model(tmp_path / "new", head="masked_lm", allow_new_head=True)
    assert model.config.num_hidden_layers == 2
    was, now = teacher.state_dict(), model.state_dict()
    assert torch.equal(now["vocab_projector.bias"], was["cls.predictions.bias"])
    assert torch.equal(
        now["distilbert.transformer.layer.1.ffn.lin1.weight"], was["bert.encoder.layer.2.intermediate.dense.weight"]
    )


def test_a_saved_student_of_causal_distillation_is_whole(tmp_path: Path) -> None:
    student: Any = DistilBertForMaskedLM(DistilBertConfig(**{**DISTILBERT, "n_layers": 2}))
    torch.save({f"module.{name}": tensor for name, tensor in student.state_dict().items()}, tmp_path / "epoch_0.pth")
    (tmp_path / "config.json").write_text(json.dumps({**DISTILBERT, "n_layers": 2, "model_type": "distilbert"}))
    assert file_to_safetensors(tmp_path / "epoch_0.pth", tmp_path / "new", config=tmp_path).lacks == ()
    ids = torch.arange(5, 25)[None]
    found: Any = load_model(tmp_path / "new", head="masked_lm")
    with torch.no_grad():
        assert torch.equal(found(ids).logits, student.eval()(ids).logits)


def change(file: Path, **changes: Any) -> None:
    tensors = torch.load(file, weights_only=True)
    torch.save({name: tensor for name, tensor in {**tensors, **changes}.items() if tensor is not None}, file)


WORDS = "distilbert.embeddings.word_embeddings.weight"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer.step": torch.ones(1)}, r"has optimizer\.step, which no distilbert model has"),
        ({WORDS: torch.ones(7, 16)}, r"word_embeddings\.weight of shape \(7, 16\), its configuration says \(61, 16\)"),
        ({"distilbert.transformer.layer.0.ffn.lin1.bias": None}, r"lacks distilbert\.transformer\.layer\.0\.ffn\.lin1"),
    ],
)
def test_weights_of_another_model_are_refused_by_what_is_wrong(
    extracted: tuple[Path, Path, nn.Module], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    file, config, _ = extracted
    change(file, **changes)
    with pytest.raises(ValueError, match=message):
        file_to_safetensors(file, tmp_path / "new", config=config)
    assert not (tmp_path / "new").exists()


class Planted:
    """Unpickling it would make a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def test_nothing_in_a_file_of_weights_is_run(extracted: tuple[Path, Path, nn.Module], tmp_path: Path) -> None:
    _, config, _ = extracted
    torch.save({"weight": Planted(tmp_path / "trace")}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=r"bad\.pth' is not a file of tensors"):
        file_to_safetensors(tmp_path / "bad.pth", tmp_path / "new", config=config)
    assert not (tmp_path / "trace").exists()


def run_command(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


def test_what_the_head_lacks_is_told_with_the_key_that_starts_it_fresh(
    extracted: tuple[Path, Path, nn.Module], tmp_path: Path
) -> None:
    file, config, _ = extracted
    result = run_command(file, tmp_path / "new", "--config", config)
    assert result.exit_code == 0, result.output
    wrote, lacks = result.stdout.splitlines()
    assert wrote == f"wrote 38 tensors to {tmp_path}/new; use it in a job as checkpoint: {tmp_path}/new"
    assert lacks.startswith("its head lacks vocab_")
    assert lacks.endswith("; write head: new beside it, which starts them fresh")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run-1/BERT.encoder_acc.pkl"], "has only weights; give its configuration as --config"),
        (["run-1/BERT.encoder_acc.pkl", "--config", "run-1"], "has no config.json; name the configuration of the"),
        (["run-1/BERT.encoder_acc.pkl", "--sparsity", "30"], "--sparsity is not an option for a file of weights"),
        (["run-1", "--layer-plan", "sps"], "--layer-plan is not an option for a checkpoint's folder; leave it out"),
        (["run-1/none.pth"], "is not there; give a file of weights"),
        (
            ["run-1/alone.encoder.pkl", "--config", "bert-base-uncased"],
            "has no alone.cls.pkl beside it",
        ),
        (
            ["run-1/BERT.encoder_acc.pkl", "--config", "bert-base-uncased", "--layer-plan", "spsx"],
            "layer_plan",
        ),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(
    pea: tuple[Path, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({}, tmp_path / "run-1" / "alone.encoder.pkl")
    result = run_command(arguments[0], "new", *arguments[1:])
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
