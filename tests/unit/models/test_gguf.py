"""Files of llama.cpp become checkpoints that jobs read, or one line says why not."""

import os
import sys

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from raydistill.batch import collate
from raydistill.cli import app
from raydistill.config.sections import ModelRef
from raydistill.layout import Layout
from raydistill.losses.chunked_head import logits_of
from raydistill.models.blocks import blocks_of
from raydistill.models.gguf import gguf_to_safetensors
from raydistill.models.load import load_model, load_tokenizer
from raydistill.stages._models import resolve
from toys.gguf_file import write_gguf


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A file, and the model that was written to it."""
    file = tmp_path_factory.mktemp("gguf") / "toy.gguf"
    return file, write_gguf(file)


def convert(*arguments):
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


def test_a_converted_file_has_the_logits_and_the_tokenizer_of_the_model_that_was_written(made, tmp_path):
    file, model = made
    new = tmp_path / "new"
    result = convert(file, new)
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith(f"tensors to {new}; use it in a job as checkpoint: {new}\n")
    assert result.stderr == ""
    tokenizer = load_tokenizer(new)
    ids = tokenizer("The quick brown fox can't jump", return_tensors="pt")["input_ids"]
    assert tokenizer.decode(ids[0]) == "The quick brown fox can't jump"
    converted = load_model(new, head="causal_lm")
    with torch.no_grad():
        assert (converted(ids).logits - model(ids).logits).abs().max() < 1e-5
    assert converted.lm_head.weight is converted.model.embed_tokens.weight


def test_a_folder_with_one_file_means_the_file(made, tmp_path):
    assert convert(made[0].parent, tmp_path / "new").exit_code == 0
    assert load_model(tmp_path / "new", head="causal_lm").config.num_hidden_layers == 2


def test_a_job_names_a_file_and_its_content_is_converted_once(made, tmp_path, monkeypatch):
    monkeypatch.setenv("RAYDISTILL_CACHE", str(tmp_path / "cache"))
    first = resolve(ModelRef(checkpoint=str(made[0])), {})
    assert load_model(first, head="causal_lm").config.model_type == "llama"
    copy = tmp_path / "toy.gguf"
    copy.write_bytes(made[0].read_bytes())
    written = (first / "model.safetensors").stat().st_mtime_ns
    assert resolve(ModelRef(checkpoint=str(copy)), {}) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == written
    # Another content under the name is another checkpoint.
    copy.write_bytes(made[0].read_bytes() + bytes(32))
    assert resolve(ModelRef(checkpoint=str(copy)), {}) != first


@pytest.mark.parametrize("kept", [0, 3, 4, 12, 200, 6000, -1, -4000])
def test_a_file_that_is_cut_off_is_one_line_and_nothing_is_written(made, tmp_path, kept):
    file = tmp_path / "cut.gguf"
    file.write_bytes(made[0].read_bytes()[:kept])
    result = convert(file, tmp_path / "new")
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"'{file}' is not a GGUF file")
    assert os.listdir(tmp_path) == ["cut.gguf"]


@pytest.mark.parametrize("content", [b"GGUF" + b"\xff" * 400, b"GGUF\x03\0\0\0" + bytes(400), b"PK\x03\x04" * 100])
def test_garbage_is_one_line(tmp_path, content):
    file = tmp_path / "garbage.gguf"
    file.write_bytes(content)
    result = convert(file, tmp_path / "new")
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"'{file}' is not a GGUF file")


def test_a_folder_with_several_files_asks_for_one(made, tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).symlink_to(made[0])
    result = convert(tmp_path, tmp_path / "new")
    assert result.stderr == f"'{tmp_path}' has 2 .gguf files; name one, such as a.gguf\n"


def test_a_file_that_is_not_there_is_told_as_such(tmp_path):
    result = convert(tmp_path / "none.gguf", tmp_path / "new")
    assert (result.exit_code, result.stderr) == (2, f"'{tmp_path}/none.gguf' is not a file; correct it\n")


def test_classes_of_a_language_model_are_refused(made, tmp_path):
    result = convert(made[0], tmp_path / "new", "--labels", "a,b")
    assert result.stderr == "--labels names classes, and a GGUF file has a language model; leave it out\n"


def test_without_the_package_the_line_names_the_extra(made, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"pip install 'raydistill\[gguf\]'"):
        gguf_to_safetensors(made[0], tmp_path / "new")


def test_the_packed_family_of_a_converted_file_gives_the_logits_of_transformers(made, tmp_path):
    gguf_to_safetensors(made[0], tmp_path / "new")
    model = load_model(tmp_path / "new", head="causal_lm", dtype=torch.float64)
    rows = [np.arange(5, 19), np.arange(40, 49)]
    batch = collate(rows, range(2), pad_id=3)
    layout = Layout.of(batch["attention_mask"], batch["token_index"])
    blocks = blocks_of(model)
    with torch.no_grad():
        end, _ = blocks.forward(layout.take(batch["input_ids"]), layout)
        packed = logits_of(blocks.head_states(end), blocks.head_projection())
        padded = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert (packed - padded[batch["attention_mask"].bool()]).abs().max() < 1e-9
