"""``raydistill convert``: a published checkpoint becomes one that jobs read, or a line says why not."""

import json
import os

import pytest
import torch
from typer.testing import CliRunner

from raydistill.cli import app
from raydistill.models.load import load_model
from toys.checkpoint import toy_tokenizer
from toys.stark import published_folder, published_tensors


def invoke(*arguments):
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


@pytest.fixture
def published(tmp_path):
    """A folder as StarK's authors published it, with pickled weights."""
    folder = published_folder(tmp_path / "published")
    (folder / "model.safetensors").unlink()
    toy_tokenizer().save_pretrained(folder)
    torch.save(published_tensors(), folder / "pytorch_model.bin")
    return folder


def test_a_published_checkpoint_is_written_anew_and_what_comes_next_is_told(published, tmp_path):
    new = tmp_path / "deep" / "new"
    result = invoke(published, new, "--labels", "not_entailment, entailment")
    assert result.exit_code == 0, result.output
    # Of 43 published tensors the idle pooler's two are left out.
    assert result.stdout == f"wrote 41 tensors to {new}; use it in a job as checkpoint: {new}\n"
    model = load_model(new, head="sequence_classification", labels=["entailment", "not_entailment"])
    assert torch.equal(model.classifier.bias, published_tensors()["cls.3.bias"].flip(0))
    assert os.listdir(new.parent) == ["new"]


def test_machines_get_one_json_document(published, tmp_path):
    result = invoke(published, tmp_path / "new", "--json")
    assert json.loads(result.stdout) == {"folder": str(tmp_path / "new"), "tensors": 41, "labels": None}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("yes", "labels names 1 classes, the checkpoint has 2; name each"),
        ("yes,yes", "labels has a name twice (yes, yes); name each class once"),
        (",yes", "labels has a name without a letter; name each class"),
    ],
)
def test_labels_that_do_not_fit_are_refused_and_nothing_is_written(published, tmp_path, labels, message):
    result = invoke(published, tmp_path / "new", "--labels", labels)
    assert (result.exit_code, result.stderr) == (2, f"{message}\n")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_there_is_not_written_to(published, tmp_path):
    (tmp_path / "new").mkdir()
    result = invoke(published, tmp_path / "new")
    assert (result.exit_code, os.listdir(tmp_path / "new")) == (2, [])
    assert result.stderr == f"'{tmp_path}/new' exists; give another name or remove it\n"


def test_what_is_no_checkpoint_is_one_line(tmp_path):
    result = invoke(tmp_path / "none", tmp_path / "new")
    assert result.exit_code == 2
    assert result.stderr == f"'{tmp_path}/none' is not a checkpoint: it has no config.json\n"
