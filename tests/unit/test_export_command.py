"""``raydistill export``: a folder that ``predict`` takes, or one line that says what is wrong."""

import json
import os

import pytest
from typer.testing import CliRunner

from raydistill.cli import app
from toys.answering import save_answering


def invoke(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_answering(tmp_path_factory.mktemp("model"), "sequence_classification")


def test_a_model_is_exported_with_calibration_rows_of_a_file_and_predicts(model, tmp_path):
    (tmp_path / "in.csv").write_text("review\nw5 w6\nw7 w8 w9\n")
    new = tmp_path / "new"
    done = invoke(
        "export", model, new, "--to", "onnx-int8-static", "--calibrate", tmp_path / "in.csv", "--column", "text=review"
    )
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("wrote onnx-int8-static of ")
    assert done.stdout.endswith(f" MB to {new}; next: raydistill predict {new} FILE -o OUT\n")
    assert sorted(os.listdir(tmp_path)) == ["in.csv", "new"]
    (tmp_path / "in.txt").write_text("w5 w6\n")
    assert invoke("predict", new, tmp_path / "in.txt", "-o", tmp_path / "out.csv").exit_code == 0
    assert (tmp_path / "out.csv").read_text().startswith("text,prediction,probability.bad,")


def test_machines_get_one_json_document(model, tmp_path):
    done = json.loads(invoke("export", model, tmp_path / "new", "--to", "onnx", "--json").stdout)
    size = (tmp_path / "new" / "model.onnx").stat().st_size / 1e6
    assert done == {"folder": str(tmp_path / "new"), "format": "onnx", "size_mb": size}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["new", "--to", "onnx-int4"], "format is 'onnx-int4'"),
        (["new", "--to", "onnx-int8-static"], "which needs calibration rows"),
        (["."], ". exists; give another folder or remove it"),
        (["no/new"], "no/new is in a folder that does not exist; make no first"),
        (["new", "--to", "onnx-int8-static", "--calibrate", "no.csv"], "no.csv', which matches no file"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_and_nothing_is_left(model, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = invoke("export", model, *arguments)
    assert done.exit_code == 2, done.output
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr
    assert not os.listdir(tmp_path)
