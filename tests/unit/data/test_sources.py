import gzip
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydistill.config.named import parser
from raydistill.data.sources._base import split_texts

TEXT = b"\xef\xbb\xbfTo be, or not to be:\r\nthat is\r\n\r\n \r\nthe question\n"


def read_all(section: dict) -> list[str]:
    source = parser("raydistill.data.sources")(section)
    examples = (
        example for item in source.module.items(source.config) for example in source.module.read(source.config, item)
    )
    return [example["text"] for example in examples]


@pytest.mark.parametrize(
    ("unit", "texts"),
    [
        ("line", ["To be, or not to be:", "that is", "the question"]),
        ("paragraph", ["To be, or not to be: that is", "the question"]),
        ("file", ["To be, or not to be:\nthat is\n\n \nthe question"]),
    ],
)
def test_units_of_a_text_file(tmp_path, unit, texts):
    (tmp_path / "a.txt").write_bytes(TEXT)
    assert read_all({"name": "text", "path": str(tmp_path / "a.txt"), "unit": unit}) == texts


def test_gzipped_files_and_globs_are_read_in_the_order_of_paths(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"two"))
    (tmp_path / "a.txt").write_bytes(b"one")
    (tmp_path / "sub" / "c.txt").write_bytes(b"three")
    assert read_all({"name": "text", "path": f"{tmp_path}/*.txt*"}) == ["one", "two"]
    assert read_all({"name": "text", "path": f"{tmp_path}/**/*.txt"}) == ["one", "three"]


def test_a_glob_without_match_is_refused(tmp_path):
    with pytest.raises(ValueError, match="matches no file"):
        read_all({"name": "text", "path": f"{tmp_path}/*.csv"})


def test_bytes_of_another_charset_are_refused_by_name():
    with pytest.raises(ValueError, match=r"play\.txt is not utf-8 at byte 2; give its charset"):
        list(split_texts(io.BytesIO(b"ab\xff"), "line", charset="utf-8", name="play.txt"))


def test_a_changed_file_has_another_fingerprint(tmp_path):
    source = parser("raydistill.data.sources")({"name": "text", "path": str(tmp_path / "a.txt")})
    (tmp_path / "a.txt").write_bytes(b"one")
    before = source.module.items(source.config)
    (tmp_path / "a.txt").write_bytes(b"other")
    assert source.module.items(source.config) != before


def test_parquet_is_read_in_ranges_of_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr("raydistill.data.sources.parquet._ROWS_PER_ITEM", 20)
    table = pa.table({"body": [f"text {number}" for number in range(50)] + [None, ""]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=8)
    source = parser("raydistill.data.sources")({"name": "parquet", "path": f"{tmp_path}/*.parquet", "column": "body"})
    items = source.module.items(source.config)
    assert [(item.start, item.stop) for item in items] == [(0, 3), (3, 6), (6, 7)]
    texts = [example["text"] for item in items for example in source.module.read(source.config, item)]
    assert texts == [f"text {number}" for number in range(50)]


def test_a_missing_parquet_column_is_refused_with_the_choices(tmp_path):
    pq.write_table(pa.table({"body": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"column is 'text', .* choices: body"):
        read_all({"name": "parquet", "path": str(tmp_path / "a.parquet")})
