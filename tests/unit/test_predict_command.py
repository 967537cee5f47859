"""``raydistill predict``: what a user types, what comes out, and one line for what is wrong."""

import json

import pytest
from typer.testing import CliRunner

from raydistill.cli import app
from toys.answering import save_answering


def invoke(*arguments, given=None):
    return CliRunner().invoke(app, ["predict", *map(str, arguments)], input=given)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_answering(tmp_path_factory.mktemp("model"), "sequence_classification")


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "in.txt"
    path.write_text("w5 w6\nw7\n")
    return path


def test_a_file_becomes_one_with_answers_and_the_speed_is_told(model, texts, tmp_path):
    done = invoke(model, texts, "-o", tmp_path / "out.csv")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out.csv").read_text().startswith("text,prediction,probability.bad,")
    assert done.stdout.startswith(f"wrote 2 rows to {tmp_path / 'out.csv'}, in ")
    assert done.stdout.endswith("rows a second)\n")


def test_a_stage_output_stands_for_its_student(model, texts, tmp_path):
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "student").symlink_to(model)
    assert invoke(tmp_path / "stage", texts, "-o", tmp_path / "out.jsonl").exit_code == 0


def test_standard_input_becomes_standard_output(model):
    done = invoke(model, "-", "--format", "text", "-o", "-", given="w5 w6\nw7\n")
    assert done.exit_code == 0, done.output
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == ["w5 w6", "w7"]
    assert done.stderr.startswith("wrote 2 rows to -, in ")


def test_csv_on_standard_input_comes_out_as_csv(model):
    done = invoke(model, "-", "--format", "csv", "-o", "-", "--no-probabilities", given="n,text\n07,w5\n")
    assert done.stdout.splitlines()[0] == "n,text,prediction"
    assert done.stdout.splitlines()[1].startswith("07,w5,")


def test_machines_get_one_json_document(model, texts, tmp_path):
    done = json.loads(invoke(model, texts, "-o", tmp_path / "out.csv", "--json").stdout)
    assert (done["rows"], done["resumed_rows"], done["output"]) == (2, 0, str(tmp_path / "out.csv"))


def test_a_file_that_is_there_is_replaced_by_force_alone(model, texts, tmp_path):
    (tmp_path / "out.csv").write_text("mine")
    done = invoke(model, texts, "-o", tmp_path / "out.csv")
    assert (done.exit_code, done.stderr) == (
        2,
        f"{tmp_path / 'out.csv'} exists; give another file, or --force to replace it\n",
    )
    assert invoke(model, texts, "-o", tmp_path / "out.csv", "--force").exit_code == 0
    assert (tmp_path / "out.csv").read_text() != "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.txt", "-o", "out.csv"], "path is '{here}/no.txt', which matches no file"),
        (["in.txt", "-o", "out.docx"], "out.docx ends with none of .txt, .csv"),
        (["in.txt", "-o", "out.txt"], "answers are written as .csv, .tsv, .jsonl or .parquet"),
        (["in.txt", "-o", "no/out.csv"], "no/out.csv is in a folder that does not exist; make no first"),
        (["in.txt", "-o", "in.txt"], "answers are written as"),
        (["in.txt", "-o", "out.csv", "--column", "text"], "--column is 'text'; write what the model reads"),
        (
            ["in.txt", "-o", "out.csv", "--column", "text=body"],
            "text is 'body', which the input does not have; choices: text",
        ),
        (["-", "-o", "out.csv"], "standard input does not say how it is written; give --format"),
        (["in.txt", "-o", "out.csv", "--precision", "int4"], "precision is 'int4'; choices: fp32, bf16, fp16"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(model, texts, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = invoke(model, *arguments)
    assert done.exit_code == 2, done.output
    assert len(done.stderr.splitlines()) == 1
    for part in message.split("{here}/"):
        assert part in done.stderr


def test_a_model_that_is_not_there_is_told(texts, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = invoke(tmp_path / "none", texts, "-o", tmp_path / "out.csv")
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    done = invoke("models:/none@champion", texts, "-o", tmp_path / "out.csv", "--storage", tmp_path)
    assert "there is no registry at" in done.stderr
