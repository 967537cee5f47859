import bz2
import csv
import gzip
import hashlib
import io
import json
import tarfile

import pytest
from pydantic import ValidationError

from raydistill.config.errors import error_lines
from raydistill.config.named import SourceSpec
from raydistill.data.sources import _files, delimited

QQP = (
    "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    + '0\t1\t2\tHow "so?\tWhy?\t0\n1\t3\t4\tbroken\n2\t5\t6\tA\tB\t1\n'
)
MNLI = "\t".join(map(str, range(8))) + "\ts1\ts2\tl1\tgold\n" + "\t".join("abcdefgh") + "\tOne.\tTwo.\tx\tneutral\r\n"
COLA = "gj04\t1\t\tOne more time.\nks08\t0\t*\t\u4e0a time more.\n"


def section(path, **options) -> dict:
    return {"name": "delimited", "path": str(path), **options}


def read_all(options: dict) -> list[dict]:
    source = SourceSpec.parse(options)
    return [dict(example) for item in source.items() for example in source.read(item)]


def write(tmp_path, content: str, name: str = "a.tsv"):
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    return tmp_path / name


def test_the_published_rules_of_glue_files_are_read(tmp_path):
    qqp = write(tmp_path, QQP, "qqp.tsv")
    columns = {"text": "question1", "text_pair": 4, "label": "is_duplicate"}
    assert read_all(section(qqp, **columns, short_lines="skip")) == [
        {"text": 'How "so?', "text_pair": "Why?", "label": "0"},
        {"dropped": "short line"},
        {"text": "A", "text_pair": "B", "label": "1"},
    ]
    mnli = write(tmp_path, MNLI, "mnli.tsv")
    assert read_all(section(mnli, text=8, text_pair=9, label=-1)) == [
        {"text": "One.", "text_pair": "Two.", "label": "neutral"}
    ]
    cola = write(tmp_path, COLA, "cola.tsv")
    assert read_all(section(cola, header=False, text=3, label=1, labels={0: "unacceptable", 1: "acceptable"})) == [
        {"text": "One more time.", "label": "acceptable"},
        {"text": "\u4e0a time more.", "label": "unacceptable"},
    ]


def test_a_short_line_is_refused_by_file_and_line_and_columns(tmp_path):
    with pytest.raises(ValueError, match=r"a\.tsv line 3 has 4 fields, too few .*'text': 4.*short_lines: skip"):
        read_all(section(write(tmp_path, QQP), text=4))


MORE_FIELDS = "label,text\npos,film 1 was good\npos,film 2, which I saw, was good\nneg,film 3 was bad\n"


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (MORE_FIELDS, {"label": "label"}, "line 3 has 4 fields, but the header has 2; put a field with ',' in it in"),
        ('text,label\n"fine",1\nHe gave it, 5,0\n', {"label": "label"}, "line 3 has 3 fields, but the header has 2"),
        ('"fine",1\nHe gave it, 5,0\n', {"header": False, "text": 0, "label": 1}, "2 has 3 fields, but the first line"),
        (
            "text;n\na;b;c\n",
            {"delimiter": ";", "quoting": "none"},
            "line 2 has 3 fields, but the header has 2; fix it",
        ),
    ],
)
def test_a_line_with_more_fields_than_the_first_is_refused_and_not_cut(tmp_path, content, options, message):
    path = write(tmp_path, content, "a.csv")
    with pytest.raises(ValueError, match=rf"{message}.*, or set short_lines: skip$"):
        read_all(section(path, **options))


def test_lines_with_more_fields_than_the_header_can_be_left_out_and_blank_fields_at_their_end_hold_nothing(tmp_path):
    path = write(tmp_path, MORE_FIELDS + "neg,film 4 was bad,, \n", "a.csv")
    assert read_all(section(path, label="label", short_lines="skip")) == [
        {"text": "film 1 was good", "label": "pos"},
        {"dropped": "long line"},
        {"text": "film 3 was bad", "label": "neg"},
        {"text": "film 4 was bad", "label": "neg"},
    ]


@pytest.mark.parametrize("header", [True, False])
def test_ranges_with_lines_that_are_left_out_give_the_rows_of_the_whole_file(tmp_path, monkeypatch, header):
    lines = ["\n"] * (not header) + ["text\tlabel\n", "a\tx\n", "b\n", "c\tx\n", "d\ty\tz\n", "e\tx\n", "f\n", "g\ty\n"]
    options = {"text": 0, "label": 1, "header": header, "short_lines": "skip"}
    options = section(write(tmp_path, "".join(lines)), **options)
    whole = read_all(options)
    assert [one.get("dropped") for one in whole].count("long line") == 1
    assert "".join(one["text"] for one in whole if "text" in one).removeprefix("text") == "aceg"
    for size in range(1, 30):
        monkeypatch.setattr(_files, "RANGE_BYTES", size)
        assert read_all(options) == whole, size


def test_a_line_whose_last_field_is_another_columns_is_short(tmp_path):
    with pytest.raises(ValueError, match="line 2 has 11 fields"):
        read_all(section(write(tmp_path, MNLI.replace("\tx\t", "\t")), text=8, label=-1))
    with pytest.raises(ValueError, match="line 1 has 4 fields"):
        read_all(section(write(tmp_path, COLA), header=False, text=3, label=-1))


@pytest.mark.parametrize("name", ["a.tsv", "a.jsonl"])
def test_ranges_of_any_size_give_the_rows_of_the_whole_file(tmp_path, monkeypatch, name):
    rows = [("text", "label"), ("\u4e0a\u00e4b", "x"), ("", "y"), ("c d", "z"), ("\u2028\x85e", "x")]
    if name == "a.jsonl":
        content = "\n".join(json.dumps({"text": text, "label": label}, ensure_ascii=False) for text, label in rows[1:])
    else:
        content = "\n".join("\t".join(row) for row in rows) + "\n\n"
    options = section(write(tmp_path, content, name), label="label")
    whole = read_all(options)
    assert whole == [
        {"text": "\u4e0a\u00e4b", "label": "x"},
        {"dropped": "no text"},
        {"text": "c d", "label": "z"},
        {"text": "\u2028\x85e", "label": "x"},
    ]
    for size in range(1, 45):
        monkeypatch.setattr(_files, "RANGE_BYTES", size)
        assert read_all(options) == whole, size


def test_quoted_fields_hold_delimiters_quotes_newlines_and_much_text(tmp_path):
    long = "word " * 100_000
    content = f'a,text\n1,"one, ""two""\nthree"\n2,"{long}"\n'
    before = csv.field_size_limit()
    path = write(tmp_path, content, "a.csv")
    assert read_all(section(path)) == [{"text": 'one, "two"\nthree'}, {"text": long}]
    assert csv.field_size_limit() == before


def test_files_with_quoting_are_not_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(_files, "RANGE_BYTES", 4)
    path = write(tmp_path, 'text\n"a\nb"\nc\n', "a.csv")
    assert read_all(section(path)) == [{"text": "a\nb"}, {"text": "c"}]
    assert len(read_all(section(path, quoting="none"))) == 3


@pytest.mark.parametrize("content", ['text\n"one"x\n', 'text\n"one\ntwo\n'])
def test_a_stray_quote_is_refused_by_file_and_line(tmp_path, content):
    with pytest.raises(ValueError, match=r"a\.csv line 2 (is not CSV: .*|opens a quote .*) quoting: none$"):
        read_all(section(write(tmp_path, content, "a.csv")))


def test_files_in_other_charsets_packed_and_with_other_delimiters_are_read(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress("text;n\n\xe4;1\n".encode("latin-1")))
    options = {"charset": "latin-1", "delimiter": ";", "label": "n"}
    assert read_all(section(f"{tmp_path}/*.gz", **options)) == [{"text": "\xe4", "label": "1"}]


def test_rows_that_hold_no_data_are_skipped_in_files_of_any_size(tmp_path, monkeypatch):
    monkeypatch.setattr(_files, "RANGE_BYTES", 4)
    path = write(tmp_path, "category\ttext\ndiscrete\tstring\nclass\tmeta\nx\tone\n", "a.tab")
    assert read_all(section(path, label="category", skip_rows=2)) == [{"text": "one", "label": "x"}]


def test_the_three_rows_of_orange_below_its_header_are_skipped_though_one_is_blank(tmp_path):
    for blank in ("", "\t"):
        path = write(tmp_path, f"Category\tText\nd\tstring\nclass\t\n{blank}\nearn\tdean foods df sees\n", "r8.tab")
        expected = [{"text": "dean foods df sees", "label": "earn"}]
        assert read_all(section(path, text="Text", label="Category", skip_rows=3)) == expected


def test_json_lines_keep_numbers_and_refuse_other_values(tmp_path):
    path = write(tmp_path, '{"text": "a", "label": 2}\n\n{"text": "b", "label": 2.5}\n', "a.jsonl")
    assert [example["label"] for example in read_all(section(path, label="label"))] == [2, 2.5]
    assert [e["label"] for e in read_all(section(path, label="label", labels={2: "x", "2.5": "y"}))] == ["x", "y"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "is not a JSON object with keys"),
        ("{", "is not JSON: "),
        ('{"text": 3, "label": "x"}', "has 3 as text, which is not text"),
        ('{"text": "a", "label": [1]}', r"has the label \[1\]"),
        ('{"text": "a", "label": ""}', "has the label ''"),
        ('{"text": "a"}', "has no label; fix it, or set short_lines: skip"),
    ],
)
def test_a_wrong_json_line_is_refused_by_file_and_line(tmp_path, line, message):
    path = write(tmp_path, '{"text": "a", "label": "x"}\n' + line, "a.jsonl")
    with pytest.raises(ValueError, match=rf"a\.jsonl line 2 {message}"):
        read_all(section(path, label="label"))


def test_a_pair_with_one_blank_text_is_an_example_and_one_with_two_is_dropped(tmp_path):
    path = write(tmp_path, "text\tb\nx\t\n\t\n\ty\n")
    assert read_all(section(path, text_pair="b")) == [
        {"text": "x", "text_pair": ""},
        {"dropped": "no text"},
        {"text": "", "text_pair": "y"},
    ]


def test_scores_become_classes_and_one_on_a_threshold_belongs_to_the_upper(tmp_path):
    path = write(tmp_path, "text\tscore\n" + "".join(f"t\t{score}\n" for score in (-0.6, -0.5, 0, 0.5, 3)))
    label = {"column": "score", "threshold": [-0.5, 0.5], "names": ["neg", None, "pos"]}
    found = [example.get("label") for example in read_all(section(path, label=label))]
    assert found == ["neg", None, None, "pos", "pos"]
    assert read_all(section(path, label=label))[1] == {"dropped": "no label"}
    one = {"column": -1, "threshold": 0, "names": ["neg", "pos"]}
    assert [e["label"] for e in read_all(section(path, label=one))] == ["neg", "neg", "pos", "pos", "pos"]


@pytest.mark.parametrize(("name", "part"), [("a.tsv", "\t"), ("a.csv", ",")])
def test_lines_may_end_with_a_return(tmp_path, monkeypatch, name, part):
    monkeypatch.setattr(_files, "RANGE_BYTES", 4)
    path = write(tmp_path, f"text{part}label\ra{part}x\rb{part}y\r", name)
    assert read_all(section(path, label="label")) == [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]


@pytest.mark.parametrize(
    ("labels", "raw", "expected"),
    [
        ({True: "a", False: "b"}, ["true", "false"], "ab"),
        ({True: "a", False: "b"}, ['"True"', '"FALSE"'], "ab"),
        ({"true": "a", "false": "b"}, ["true", "false"], "ab"),
        ({1: "a", 0: "b"}, ["1.0", "0.0"], "ab"),
        ({1: "a", 0: "b"}, ['"1.0"', '"0"'], "ab"),
        ({1.0: "a", "0": "b"}, ["1", "0.0"], "ab"),
        ({"1.0": "a", "1": "b"}, ['"1.0"', '"1"'], "ab"),
    ],
)
def test_truth_values_and_whole_numbers_match_labels_however_they_are_written(tmp_path, labels, raw, expected):
    path = write(tmp_path, "".join(f'{{"text": "t", "label": {one}}}\n' for one in raw), "a.jsonl")
    options = section(path, label="label", labels=labels)
    assert "".join(one["label"] for one in read_all(options)) == expected
    resolved = SourceSpec.parse(options).dump()
    assert "".join(one["label"] for one in read_all(resolved)) == expected


def test_a_label_that_differs_from_a_name_only_in_writing_is_refused_with_that_name(tmp_path):
    path = write(tmp_path, "text\tlabel\na\tPositive \n")
    with pytest.raises(
        ValueError, match=r"has the label 'Positive '.*; 'positive' is written in another way, so write"
    ):
        read_all(section(path, label="label", labels={"positive": "p"}))


def test_a_score_that_is_no_number_and_a_label_without_name_are_refused_by_line(tmp_path):
    path = write(tmp_path, "text\tlabel\na\t1\nb\tnan\n")
    with pytest.raises(ValueError, match="line 3 has the score 'nan' in column 'label', which is not a number"):
        read_all(section(path, label={"column": "label", "threshold": 0, "names": ["a", "b"]}))
    with pytest.raises(ValueError, match="line 3 has the label 'nan', which labels does not name; it names 1"):
        read_all(section(path, label="label", labels={"1": "one"}))
    assert read_all(section(path, label="label", labels={"1": "one", "nan": None}))[1] == {"dropped": "no label"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": "body"}, r"text is 'body', which .*a\.tsv does not have; choices: text, n, n"),
        ({"label": "n"}, r"label is 'n', which .*a\.tsv names more than once"),
        ({"header": False}, "text is 'text', but without a header columns are given by number"),
        ({"quoting": "minimal", "delimiter": "::"}, "delimiter is '::'; with quoting it is one character"),
        ({"format": "jsonl", "delimiter": ","}, "JSON lines, which have no delimiter"),
        ({"format": "jsonl", "text": 0}, r"whose keys are names, but columns are {'text': 0}"),
    ],
)
def test_options_that_do_not_fit_the_file_are_refused_when_it_is_listed(tmp_path, options, message):
    source = SourceSpec.parse(section(write(tmp_path, "text\tn\tn\n"), **options))
    with pytest.raises(ValueError, match=message):
        source.items()


def test_a_format_that_the_ending_does_not_tell_has_to_be_given(tmp_path):
    path = write(tmp_path, "text\na\n", "a.txt")
    with pytest.raises(ValueError, match=r"format is missing and .*a\.txt ends with none of \.csv, \.tsv"):
        read_all(section(path))
    assert read_all(section(path, format="csv")) == [{"text": "a"}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skip_rows": -1}, "skip_rows is -1"),
        ({"delimiter": ""}, "delimiter is empty"),
        ({"labels": {"a": "b"}}, "labels names the raw values of a label's column"),
        ({"label": {"column": 0, "threshold": [1, 1], "names": ["a", "b", "c"]}}, "ascending order"),
        ({"label": {"column": 0, "threshold": 1, "names": ["a"]}}, "names has 1 entries; give 2"),
        ({"label": {"column": 0, "treshold": 1, "names": ["a", "b"]}}, "label.scores.treshold is not an option"),
        ({"charset": "utf-9"}, "charset is 'utf-9'"),
        ({"package": "a==1"}, "either path, or package"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ValidationError) as caught:
        SourceSpec.parse(section("a.csv", **options))
    lines = error_lines(caught.value)
    assert any(message in line for line in lines), lines
    assert not any("valid" in line for line in lines), "of the kinds of label one is meant"


def test_members_of_a_package_are_read_nested_and_packed(tmp_path, monkeypatch):
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        _add(archive, "truth/movies.txt", b"1\t0.5\tGood.\n2\t-0.5\tBad.\n")
    with tarfile.open(tmp_path / "scored-1.0.tar.gz", "w:gz") as archive:
        _add(archive, "scored-1.0/data.tar.gz", inner.getvalue())
        _add(archive, "scored-1.0/all.csv.bz2", bz2.compress(b"text\nOne\n"))
    digest = hashlib.sha256((tmp_path / "scored-1.0.tar.gz").read_bytes()).hexdigest()
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("RAYDISTILL_CACHE", str(tmp_path / "cache"))
    package = {"name": "delimited", "package": "scored==1.0", "sha256": digest}
    label = {"column": 1, "threshold": 0, "names": ["negative", "positive"]}
    nested = {"members": "data.tar.gz!/truth/*.txt", "format": "tsv", "header": False, "text": 2, "label": label}
    assert read_all({**package, **nested}) == [
        {"text": "Good.", "label": "positive"},
        {"text": "Bad.", "label": "negative"},
    ]
    assert read_all({**package, "members": "*.csv.bz2"}) == [{"text": "One"}]


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def test_columns_that_the_first_json_line_lacks_are_refused_when_files_are_listed(tmp_path):
    path = write(tmp_path, '\n{"sentence": "a", "label": 2}\n{"text": "b"}\n', "a.jsonl")
    with pytest.raises(
        ValueError, match=r"text is 'text', which .*a\.jsonl line 2 does not have; choices: sentence, label"
    ):
        delimited.items(delimited.Config(path=str(path), text="text"))
    assert delimited.items(delimited.Config(path=str(path), text="sentence", label="label"))
    assert delimited.items(delimited.Config(path=str(path), text="text", short_lines="skip"))
    broken = write(tmp_path, "[1, 2]\n", "b.jsonl")
    with pytest.raises(ValueError, match=r"b\.jsonl line 1 starts a JSON array; write its objects one per line"):
        delimited.items(delimited.Config(path=str(broken), text="text"))


def test_messages_and_prompts_of_json_lines_are_read_as_they_stand(tmp_path):
    chat = [{"role": "user", "content": "Who? "}, {"role": "assistant", "content": "Ada."}]
    path = write(tmp_path, f"{json.dumps({'chat': chat, 'ask': ' Who?', 'reply': 'Ada '})}\n", "a.jsonl")
    assert read_all(section(path, messages="chat")) == [{"messages": chat}]
    assert read_all(section(path, prompt="ask", completion="reply")) == [{"prompt": " Who?", "completion": "Ada "}]


def test_options_of_instructions_are_written_only_where_they_are_given(tmp_path):
    later = {"prompt", "completion", "messages"}
    assert not later & SourceSpec.parse(section("a.csv")).dump().keys()
    assert SourceSpec.parse(section("a.csv")).dump()["text"] == "text"
    given = SourceSpec.parse(section("a.csv", prompt="ask", completion=1)).dump()
    assert {name: given.get(name) for name in (*later, "text")} == {
        "prompt": "ask",
        "completion": 1,
        "messages": None,
        "text": None,
    }
    assert SourceSpec.parse(given).dump() == given
