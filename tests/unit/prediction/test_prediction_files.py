"""Rows go through a model and come out whole, in their order, with answers beside them; a stopped run goes on."""

import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydistill.prediction import files
from raydistill.prediction.files import blocks, num_blocks, parts_of
from raydistill.prediction.run import Model, predict_files
from raydistill.user_error import UserError
from toys.answering import save_answering

TEXTS = [f"w{5 + number % 30} w{5 + number % 7}" for number in range(50)]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return Model(str(save_answering(tmp_path_factory.mktemp("model"), "sequence_classification")))


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    monkeypatch.setattr(files, "BLOCK_ROWS", 8)


@pytest.fixture
def lines(tmp_path):
    """JSON lines with numbers, nested values and letters of all kinds."""
    path = tmp_path / "in.jsonl"
    rows = [{"id": 10**17 + number, "text": text, "more": {"é": [1.5, None]}} for number, text in enumerate(TEXTS)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n\n" for row in rows), encoding="utf-8")
    return path, rows


def answered(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_json_lines_keep_every_value_and_their_order(classifier, lines, tmp_path):
    path, rows = lines
    summary = predict_files(classifier, parts_of([str(path)]), tmp_path / "out.jsonl", "jsonl")
    found = answered(tmp_path / "out.jsonl")
    assert [{key: row[key] for key in ("id", "text", "more")} for row in found] == rows
    expected = classifier.load().predict(TEXTS)["prediction"]
    assert [row["prediction"] for row in found] == expected
    assert (summary.rows, summary.resumed_rows) == (50, 0)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_csv_keeps_fields_as_they_are_written_also_quotes_newlines_and_leading_zeros(classifier, tmp_path):
    rows = [["007", 'w5 "w6",\nw7', ""], ["1e5", "w8", "x"]]
    with (tmp_path / "in.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["id", "text", "note"], *rows])
    predict_files(classifier, parts_of([str(tmp_path / "in.csv")]), tmp_path / "out.csv", "csv")
    with (tmp_path / "out.csv").open(newline="") as stream:
        header, *found = csv.reader(stream)
    assert header == ["id", "text", "note", "prediction", "probability.bad", "probability.so-so", "probability.good"]
    assert [row[:3] for row in found] == rows
    assert all(sum(map(float, row[4:])) == pytest.approx(1, abs=1e-5) for row in found)


def test_parquet_keeps_the_types_of_its_columns(classifier, tmp_path):
    table = pa.table({"text": TEXTS, "n": pa.array(range(50), pa.int16()), "d": pa.array([0.1] * 50, pa.float32())})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=7)
    predict_files(classifier, parts_of([str(tmp_path / "in.parquet")]), tmp_path / "out.parquet", "parquet")
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.select(["text", "n", "d"]) == table
    assert found.schema.field("prediction").type == pa.string()
    assert found.num_rows == 50


@pytest.mark.parametrize(("ending", "to"), [("csv", "csv"), ("jsonl", "jsonl"), ("parquet", "parquet")])
def test_a_run_that_is_interrupted_goes_on_and_writes_the_same_bytes(classifier, lines, tmp_path, ending, to):
    parts = parts_of([str(lines[0])])
    if to == "csv":
        (tmp_path / "in.txt").write_text("\n".join(TEXTS))
        parts = parts_of([str(tmp_path / "in.txt")])
    whole, target = tmp_path / f"whole.{ending}", tmp_path / f"out.{ending}"
    predict_files(classifier, parts, whole, to)

    def stop(rows, seconds):
        if rows >= 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_files(classifier, parts, target, to, told=stop)
    assert not target.exists()
    summary = predict_files(classifier, parts, target, to)
    assert (summary.rows, summary.resumed_rows) == (50, 24)
    assert target.read_bytes() == whole.read_bytes()


def test_a_run_of_another_model_or_input_begins_anew(classifier, lines, tmp_path):
    path, _ = lines

    def stop(rows, seconds):
        raise KeyboardInterrupt

    for changed in (lambda: path.write_text(path.read_text() + json.dumps({"text": "w5"}) + "\n"), lambda: None):
        with pytest.raises(KeyboardInterrupt):
            predict_files(classifier, parts_of([str(path)]), tmp_path / "out.jsonl", "jsonl", told=stop)
        changed()
        model = classifier if changed() else Model(classifier.folder, max_length=5)
        summary = predict_files(model, parts_of([str(path)]), tmp_path / "out.jsonl", "jsonl")
        assert summary.resumed_rows == 0
        (tmp_path / "out.jsonl").unlink()


def test_several_files_are_read_in_order_and_packed_ones_are_unpacked(classifier, tmp_path):
    (tmp_path / "a.txt").write_text("w5\nw6\n")
    with gzip.open(tmp_path / "b.txt.gz", "wt") as stream:
        stream.write("w7\n\nw8")
    predict_files(classifier, parts_of([str(tmp_path / "*.txt*")]), tmp_path / "out.jsonl", "jsonl")
    assert [row["text"] for row in answered(tmp_path / "out.jsonl")] == ["w5", "w6", "w7", "w8"]


@pytest.mark.parametrize(("start", "stop"), [(0, 3), (2, 5), (5, None)])
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_range_of_blocks_is_that_part_of_the_whole(lines, tmp_path, ending, start, stop):
    path = lines[0]
    if ending == "csv":
        path = tmp_path / "in.csv"
        path.write_text("text\n" + "\n".join(TEXTS))
    if ending == "parquet":
        path = tmp_path / "in.parquet"
        pq.write_table(pa.table({"text": TEXTS}), path)
    (part,) = parts_of([str(path)])
    assert num_blocks(part) == 7
    assert list(blocks(part, start, stop)) == list(blocks(part))[start:stop]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,n\nw5,1\nw6,1,2\n", "a.csv line 3 has 3 fields, the header 2; fix the line"),
        ("a.csv", "", "a.csv is empty; its first line names the columns"),
        ("a.csv", "text,text\nw5,1\n", "a.csv names the column 'text' more than once; rename one"),
        ("a.csv", "id;text\n1;w5\n", "a.csv has one column, 'id;text'; separate its columns with commas"),
        ("a.csv", 'text\n"w5\nw6', "a.csv line 2 opens a quote that is never closed"),
        ("a.jsonl", '{"text": "w5"}\n[1]\n', "a.jsonl line 2 is not a JSON object; write one object per line"),
        ("a.jsonl", '{"text": "w5"\n', "a.jsonl line 1 is not JSON"),
        ("a.jsonl", '{"note": "w5"}\n', "the input has no column 'text', which the model reads; it has note: name one"),
        ("a.jsonl", '{"text": null}\n', "a.jsonl row 1 has None as text, which is not text"),
        (
            "a.csv",
            "text,prediction\nw5,x\n",
            "the input has a column 'prediction', which is also the name of an answer",
        ),
        ("a.docx", "w5", "a.docx ends with none of .txt, .csv"),
        ("a.parquet", "w5", "a.parquet is damaged or cut off"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line_and_leaves_no_output(classifier, tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as raised:
        predict_files(classifier, parts_of([str(tmp_path / name)]), tmp_path / "out.jsonl", "jsonl")
    assert message in str(raised.value)
    assert len(raised.value.lines) == 1
    assert not (tmp_path / "out.jsonl").exists()


def test_files_of_different_columns_do_not_become_one_csv(classifier, tmp_path):
    (tmp_path / "a.csv").write_text("text,n\nw5,1\n")
    (tmp_path / "b.csv").write_text("text,m\nw5,1\n")
    parts = parts_of([str(tmp_path / "*.csv")])
    with pytest.raises(UserError, match="the files have different columns, text, m, "):
        predict_files(classifier, parts, tmp_path / "out.csv", "csv")


def test_a_column_of_another_name_is_read_and_answers_may_have_a_prefix(classifier, tmp_path):
    (tmp_path / "a.csv").write_text("review,prediction\nw5 w6,mine\n")
    model = Model(classifier.folder, columns=(("text", "review"),), prefix="student_", probabilities=False)
    predict_files(model, parts_of([str(tmp_path / "a.csv")]), tmp_path / "out.csv", "csv")
    expected = classifier.load().predict(["w5 w6"])["prediction"][0]
    assert (tmp_path / "out.csv").read_text() == f"review,prediction,student_prediction\nw5 w6,mine,{expected}\n"


def test_a_target_that_another_process_writes_is_refused(classifier, lines, tmp_path):
    parts = parts_of([str(lines[0])])

    def again(rows, seconds):
        predict_files(classifier, parts, tmp_path / "out.jsonl", "jsonl")

    with pytest.raises(UserError, match=r"out.jsonl is being written by process \d+"):
        predict_files(classifier, parts, tmp_path / "out.jsonl", "jsonl", told=again)


def test_tags_of_a_sentence_are_one_field_of_csv_and_a_list_elsewhere(tmp_path):
    model = Model(str(save_answering(tmp_path / "tags", "token_classification")))
    (tmp_path / "in.txt").write_text("w5 w6 w7\nw8\n")
    for to in ("csv", "parquet"):
        predict_files(model, parts_of([str(tmp_path / "in.txt")]), tmp_path / f"out.{to}", to)
    with (tmp_path / "out.csv").open(newline="") as stream:
        of_csv = [row["prediction"].split() for row in csv.DictReader(stream)]
    assert pq.read_table(tmp_path / "out.parquet").column("prediction").to_pylist() == of_csv
    assert list(map(len, of_csv)) == [3, 1]
