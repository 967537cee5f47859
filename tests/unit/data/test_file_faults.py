"""What is told of a damaged or unfit file of data: one line with the file, its line if there is one, and a remedy."""

import bz2
import decimal
import gzip
import itertools
import json
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydistill.config.named import EncodingSpec, SourceSpec
from raydistill.data.examples import examples_of, placed_in
from raydistill.data.published import archives
from raydistill.data.sources import delimited, parquet, squad
from raydistill.user_error import UserError
from toys.words import make_tokenizer


def refusal(source, path, **options):
    """The line that reading a source's files ends with."""
    spec = SourceSpec.parse({"name": source.__name__.rpartition(".")[2], "path": str(path), **options})
    with pytest.raises(UserError) as caught:
        [*itertools.chain.from_iterable(examples_of(spec, item) for item in spec.items())]
    (line,) = caught.value.lines
    return line.replace(f"{path.parent}/", "")


def refusal_of_rows(source, path, encoding, **options):
    """The line that cutting its examples for a task ends with."""
    spec = SourceSpec.parse({"name": source.__name__.rpartition(".")[2], "path": str(path), **options})
    task, tokenizer = EncodingSpec.parse(encoding), make_tokenizer()
    (item,) = spec.items()
    examples = list(examples_of(spec, item))

    def cut(some):
        return task.cut(some, tokenizer)

    with pytest.raises(UserError) as caught, placed_in(item, examples, cut):
        cut(examples)
    (line,) = caught.value.lines
    return line.replace(f"{path.parent}/", "")


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_half_a_character_in_json_lines_is_told_with_file_and_line(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "good", "label": "pos"}\n\n{"text": "bad \\ud83d", "label": "neg"}\n')
    line = refusal_of_rows(delimited, path, {"name": "classification", "labels": ["pos", "neg"]}, label="label")
    assert line == "a.jsonl line 3: text is 'bad \\ud83d', which has half a character (a lone surrogate); fix it"


def test_a_label_that_the_task_does_not_name_is_told_with_file_and_line(tmp_path):
    path = write(tmp_path / "a.csv", "text,label\na b,pos\nb c,neutral\n")
    line = refusal_of_rows(delimited, path, {"name": "classification", "labels": ["pos", "neg"]}, label="label")
    assert line.startswith("a.csv line 3: an example has the label 'neutral'; encoding.labels names pos, neg")


@pytest.mark.parametrize("source", [delimited, squad])
def test_json_that_is_nested_very_deep_is_told_with_its_place(tmp_path, source):
    deep = "[" * 100_000 + "]" * 100_000
    path = write(tmp_path / "a.jsonl", f'{{"text": "a"}}\n{{"text": {deep}}}\n')
    line = refusal(source, path)
    assert line.startswith("a.jsonl line 2 is JSON that is nested too deeply; write one flat object a row")


def test_a_json_array_is_told_how_to_become_json_lines(tmp_path):
    remedy = "a.jsonl line 1 starts a JSON array; write its objects one per line, as `jq -c '.[]' FILE` does"
    rows = [{"text": "a"}, {"text": "b"}]
    for content in (json.dumps(rows), json.dumps(rows, indent=2)):
        assert refusal(delimited, write(tmp_path / "a.jsonl", content)) == remedy
    pretty = refusal(delimited, write(tmp_path / "a.jsonl", json.dumps(rows[0], indent=2)))
    assert pretty.startswith("a.jsonl line 1 is not JSON: ")
    assert pretty.endswith("; each line is one JSON object")


def test_an_unclosed_quote_is_told_where_it_was_opened(tmp_path):
    path = write(tmp_path / "a.csv", 'text\nfirst\n"second\nthird\nfourth\nfifth\n')
    assert refusal(delimited, path) == (
        "a.csv line 3 opens a quote that is never closed; close it, or set quoting: none"
    )


@pytest.mark.parametrize("ending", ["zst", "zip", "tar.gz", "7z"])
def test_a_file_that_is_packed_otherwise_is_told_how_to_unpack_it(tmp_path, ending):
    line = refusal(delimited, write(tmp_path / f"a.csv.{ending}", b"PK\x03\x04"))
    assert line.startswith(f"a.csv.{ending} is packed as .{'tar' if 'tar' in ending else ending}, which is not read; ")
    assert line.endswith("unpack it, or pack the file in it with gzip, bzip2 or xz")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"PK\x03\x04\x14\x00", "is a zip archive; unpack it"),
        (b"\x28\xb5\x2f\xfd\x00\x00", "is packed with zstd; unpack it"),
        (gzip.compress(b"text\na\n", mtime=0), "is packed with gzip; let its name end with .gz"),
        (b"PAR1\x15\x04", "is a Parquet file; read it with the source parquet"),
    ],
)
def test_a_file_with_another_ending_than_its_content_is_told_what_it_is(tmp_path, content, told):
    assert refusal(delimited, write(tmp_path / "a.csv", content)).startswith(f"a.csv {told}")


def test_a_packed_file_that_is_cut_off_is_told_so(tmp_path):
    content = bz2.compress(b"text\n" + b"a b c\n" * 10_000)
    line = refusal(delimited, write(tmp_path / "a.csv.bz2", content[: len(content) // 2]))
    assert line.startswith("a.csv.bz2 is damaged or cut off (")


def rows_in_parquet(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)
    return path


def test_a_file_that_is_no_parquet_is_named(tmp_path):
    line = refusal(parquet, write(tmp_path / "a.parquet", "text\na\n" * 10))
    assert line.startswith("a.parquet is damaged or cut off (Parquet magic bytes not found")
    assert line.endswith("; fetch or write it again")


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_parquet_with_a_damaged_page_is_named(tmp_path, compression):
    texts = [f"word {number} of a text" for number in range(5_000)]
    path = rows_in_parquet(
        tmp_path / "a.parquet", {"text": texts}, compression=compression, use_dictionary=False, write_statistics=False
    )
    content = bytearray(path.read_bytes())
    content[4:4000] = b"\xff" * 3996
    line = refusal(parquet, write(path, bytes(content)))
    assert line.startswith("a.parquet is damaged or cut off (")


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert refusal(parquet, tmp_path / "a.parquet") == "text is 'text', a name that 2 columns of a.parquet have"


def test_decimals_are_labels_by_their_digits_and_refused_with_the_row_where_no_name_is_given(tmp_path):
    labels = [decimal.Decimal("1.00"), decimal.Decimal("2.00")]
    path = rows_in_parquet(tmp_path / "a.parquet", {"text": ["a", "b"], "label": labels})
    line = refusal(parquet, path, label="label", labels={"1.00": "pos"})
    assert line.startswith("a.parquet row 1 has the label Decimal('2.00'), which labels does not name; it names 1.00")
    line = refusal(parquet, path, label="label")
    assert line == (
        "a.parquet row 0 has the label Decimal('1.00'); store a text, an integer or a float, or leave label out"
    )


def test_an_encrypted_member_of_an_archive_is_named(tmp_path):
    path = tmp_path / "p.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("p/a.csv", "text\na\n")
    content = bytearray(path.read_bytes())
    # The bit that says so, in the member's own header and in the table of contents.
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"^the member 'p/a\.csv' cannot be read \(.*encrypted.*\); unpack it first"):
        archives.open_member(path, "p/a.csv")


def test_a_fault_of_ours_is_no_mistake_in_a_file(tmp_path):
    spec = SourceSpec.parse({"name": "delimited", "path": str(write(tmp_path / "a.csv", "text\na\n"))})
    (item,) = spec.items()
    with pytest.raises(TypeError, match="ours"), placed_in(item, list(examples_of(spec, item)), lambda some: None):
        raise TypeError("ours")
