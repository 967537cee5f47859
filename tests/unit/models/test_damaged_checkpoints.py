"""What is told of a checkpoint whose files say what no library understands: one line with the folder and a remedy."""

import json
import random

import pytest
from typer.testing import CliRunner

from raydistill.cli import app
from raydistill.models.load import load_config, load_model, load_tokenizer
from raydistill.user_error import UserError
from toys.checkpoint import save_student


@pytest.fixture
def folder(tmp_path):
    return save_student(tmp_path / "student")


def refusal(call, *arguments, **options):
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    (line,) = caught.value.lines
    return line


@pytest.mark.parametrize(
    "content", ["null", "[]", "3", "{", '"text"', "[" * 100_000, '{"model_type": 3}', '{"model_type": "no-such"}']
)
def test_a_configuration_that_is_none_is_named(folder, content):
    (folder / "config.json").write_text(content)
    line = refusal(load_config, folder)
    assert line.startswith(f"{str(folder)!r} is not a checkpoint that transformers knows (")
    assert line.endswith("; correct its files, or fetch it again")


@pytest.mark.parametrize(("key", "model_type"), [("activation", "distilbert"), ("hidden_act", "bert")])
def test_an_unknown_activation_offers_the_closest_one(tmp_path, key, model_type):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, key: "gelux"}))
    assert refusal(load_config, tmp_path).startswith(
        f"{str(tmp_path)!r}: {key} is 'gelux'; did you mean 'gelu'? Choices: "
    )


def test_sizes_that_no_model_can_have_are_named(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "n_heads": 3}))
    line = refusal(load_model, folder, head="masked_lm")
    assert line.startswith(f"{str(folder)!r} is not a masked_lm that transformers can open (")


@pytest.mark.parametrize("content", ["{}", "null", "[]", "{", "", '{"model": {}}', "[" * 100_000])
def test_a_tokenizer_that_is_none_is_named(folder, content):
    (folder / "tokenizer.json").write_text(content)
    line = refusal(load_tokenizer, folder)
    assert line.startswith(f"{str(folder)!r} has no tokenizer that transformers can load (")
    assert line.endswith("; correct its files, or fetch it again")


def garbage():
    draw = random.Random(0)
    yield from (b"", b"no pickle", b"PK\x03\x04 no archive", b"\x80\x02.", b"\x80\x02]q\x00.", b"\x80\x05N.")
    yield from (bytes([0x80, 2, *draw.randbytes(draw.randrange(200))]) for _ in range(100))


def test_converting_garbage_is_refused_in_one_line(folder, tmp_path):
    for content in garbage():
        (folder / "pytorch_model.bin").write_bytes(content)
        result = CliRunner().invoke(app, ["convert", str(folder), str(tmp_path / "made")])
        assert result.exit_code == 2, (content, result.output)
        (line,) = result.stderr.splitlines()
        assert "pytorch_model.bin' " in line
        assert not (tmp_path / "made").exists()
