import bz2
import gzip
import lzma

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydistill.config.named import SourceSpec

TEXT = b"\xef\xbb\xbfTo be, or not to be:\r\nthat is\r\n\r\n \r\nthe question\n"


def read_all(section: dict) -> list[str]:
    source = SourceSpec.parse(section)
    examples = (example for item in source.items() for example in source.read(item))
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


def test_packed_files_are_unpacked_by_their_ending(tmp_path):
    for number, (ending, packed) in enumerate([("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)]):
        (tmp_path / f"{number}.txt.{ending}").write_bytes(packed(f"text {number}".encode()))
    assert read_all({"name": "text", "path": f"{tmp_path}/*.txt.*"}) == ["text 0", "text 1", "text 2"]


@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_packed_files_with_damage_are_refused_by_name(tmp_path, ending, pack):
    content = pack(" ".join(map(str, range(9000))).encode())
    for damaged in (content[:-900], content[:60] + b"\0" * 30 + content[90:], b"plain text"):
        (tmp_path / f"a.txt.{ending}").write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"a\.txt\.{ending} is damaged or cut off"):
            read_all({"name": "text", "path": f"{tmp_path}/a.txt.{ending}"})


def test_a_glob_without_match_is_refused(tmp_path):
    with pytest.raises(ValueError, match="matches no file"):
        read_all({"name": "text", "path": f"{tmp_path}/*.csv"})


def test_a_changed_file_has_another_fingerprint(tmp_path):
    source = SourceSpec.parse({"name": "text", "path": str(tmp_path / "a.txt")})
    (tmp_path / "a.txt").write_bytes(b"one")
    before = source.items()
    (tmp_path / "a.txt").write_bytes(b"other")
    assert source.items() != before


def test_parquet_is_read_in_ranges_of_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr("raydistill.data.sources.parquet._ROWS_PER_ITEM", 20)
    table = pa.table({"body": [f"text {number}" for number in range(50)] + [None, ""]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=8)
    source = SourceSpec.parse({"name": "parquet", "path": f"{tmp_path}/*.parquet", "text": "body"})
    items = source.items()
    assert [(item.start, item.stop) for item in items] == [(0, 3), (3, 6), (6, 7)]
    texts = [example.get("text") for item in items for example in source.read(item)]
    assert texts == [f"text {number}" for number in range(50)] + [None, None]


def test_a_row_group_is_not_held_as_a_whole(tmp_path):
    generator = np.random.default_rng(0)
    texts = [generator.bytes(1000).hex() for _ in range(10_000)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=len(texts), use_dictionary=False)
    source = SourceSpec.parse({"name": "parquet", "path": str(tmp_path / "a.parquet")})
    before = pa.total_allocated_bytes()
    examples = source.read(*source.items())
    assert [next(examples)["text"], next(examples)["text"]] == texts[:2]
    assert pa.total_allocated_bytes() - before < 8_000_000


def test_a_file_whose_name_looks_like_a_glob_is_read_and_not_its_neighbour(tmp_path):
    (tmp_path / "a[1].txt").write_text("named")
    (tmp_path / "a1.txt").write_text("neighbour")
    assert read_all({"name": "text", "path": f"{tmp_path}/a[1].txt"}) == ["named"]
    (tmp_path / "a[1].txt").unlink()
    assert read_all({"name": "text", "path": f"{tmp_path}/a[1].txt"}) == ["neighbour"]


@pytest.mark.parametrize("pattern", ["./*.txt", "*.txt", "./b/../*.txt", "././[a-c].txt", "b/..//?.txt", "**/./*.txt"])
def test_globs_are_relative_to_the_working_folder_however_it_is_written(tmp_path, monkeypatch, pattern):
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").write_text("one")
    monkeypatch.chdir(tmp_path)
    assert read_all({"name": "text", "path": pattern}) == ["one"]


@pytest.mark.parametrize("unit", ["line", "paragraph", "file"])
@pytest.mark.parametrize("charset", ["utf-8-sig", "utf-16"])
def test_texts_of_files_whose_lines_end_with_a_return_are_those_of_newlines(tmp_path, monkeypatch, unit, charset):
    monkeypatch.setattr("raydistill.data.sources._files.RANGE_BYTES", 4)
    found = []
    for end in ("\n", "\r"):
        (tmp_path / "a.txt").write_bytes(end.join(["a\u00e4 b", "c", "", " d", ""]).encode(charset))
        found.append(read_all({"name": "text", "path": str(tmp_path / "a.txt"), "unit": unit, "charset": charset}))
    assert found[0] == found[1]
    assert len(found[0]) == {"line": 3, "paragraph": 2, "file": 1}[unit]
