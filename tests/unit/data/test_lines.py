import io
import tracemalloc

import pytest

from raydistill.data.sources import _files, _lines
from raydistill.data.sources._base import Item
from raydistill.data.sources._lines import Lines, check_charset, numbered_texts

TEXT = "\ufeffa\u00e4\u20ac\U0001f600 b\r\n \u00a0\n\n\ncd\nefg\n \n\u2028h\x85i\n\x0c\n\n\ufeffjk\u00e4"


def texts_of(content: bytes, ranges: list[tuple[int, int]], unit: str, charset: str = "utf-8-sig") -> list[str]:
    found = []
    for start, stop in ranges:
        item = Item("a.txt", "", start, stop)
        lines = Lines(io.BytesIO(content), item, charset=charset, paragraphs=unit == "paragraph")
        found += [text for _, text in numbered_texts(lines, unit)]
    return found


@pytest.mark.parametrize("unit", ["line", "paragraph"])
@pytest.mark.parametrize("charset", ["utf-8", "utf-8-sig", "latin-1", "cp1252"])
def test_ranges_of_any_size_give_the_texts_of_the_whole_file(unit, charset):
    content = TEXT.encode(charset, errors="replace")
    whole = [text for _, text in numbered_texts([content.decode(charset)], unit)]
    assert len(whole) >= 4
    assert texts_of(content, [(0, 0)], unit, charset) == whole
    for size in range(1, len(content) + 2):
        ranges = [(start, min(start + size, len(content))) for start in range(0, len(content), size)]
        assert texts_of(content, ranges, unit, charset) == whole, size


@pytest.mark.parametrize("content", [b"one\ntwo\nthree", b"\n\n\n", b"a\n\n\n\nb\n\n", b"a", b"\n", b""])
@pytest.mark.parametrize("unit", ["line", "paragraph"])
def test_files_without_and_of_only_blank_lines_are_cut_well(content, unit):
    for size in range(1, len(content) + 1):
        ranges = [(start, min(start + size, len(content))) for start in range(0, len(content), size)]
        assert texts_of(content, ranges, unit) == texts_of(content, [(0, 0)], unit)


def test_a_paragraph_without_end_is_not_searched_through_for_each_range():
    class Counting(io.BytesIO):
        lines = 0

        def readline(self, *size):
            self.lines += 1
            return super().readline(*size)

    content, total = b"word\n" * 1000, 0
    for start in range(0, len(content), 100):
        stream = Counting(content)
        item = Item("a.txt", "", start, start + 100)
        assert len(list(Lines(stream, item, charset="utf-8", paragraphs=True))) == (1000 if start == 0 else 0)
        total += stream.lines
    assert total < 1000 * 3


@pytest.mark.parametrize("charset", ["utf-16", "utf-32-le", "gb18030", "shift_jis", "utf-7"])
def test_charsets_in_which_a_newline_byte_is_no_newline_are_read_too(charset, monkeypatch):
    monkeypatch.setattr("raydistill.data.sources._lines._PIECE_BYTES", 3)
    text = "\u4e0a\n\u0a0a b\n\nc\u3042" if charset != "shift_jis" else "\u30bd\n\u3042 b\n\nc\u3042"
    assert texts_of(text.encode(charset), [(0, 0)], "line", charset) == list(filter(None, text.split("\n")))


@pytest.mark.parametrize("piece", [2, 1000])
@pytest.mark.parametrize(
    ("charset", "content", "byte"),
    [
        ("utf-8", b"ab\ncd\xff", 5),
        ("utf-8-sig", b"\xef\xbb\xbfa\xff\n", 4),
        ("utf-8-sig", b"a\n\xff", 2),
        ("ascii", b"a\nbc\xe4", 4),
        ("gb18030", b"ab\ncd\xff\n", 5),
        ("utf-16-le", b"a\0b", 2),
    ],
)
def test_bytes_of_another_charset_are_refused_by_name_and_place(monkeypatch, piece, charset, content, byte):
    monkeypatch.setattr("raydistill.data.sources._lines._PIECE_BYTES", piece)
    with pytest.raises(ValueError, match=rf"^a\.txt is not {charset} at byte {byte}; give its charset$"):
        texts_of(content, [(0, 0)], "line", charset)


@pytest.mark.parametrize("charset", ["nonsense", "base64"])
def test_an_unknown_charset_is_refused(charset):
    with pytest.raises(ValueError, match=f"charset is '{charset}', which Python does not know"):
        check_charset(charset)


@pytest.mark.parametrize("paragraphs", [True, False])
def test_a_line_that_spans_many_ranges_is_read_once_and_not_searched_through_for_each(monkeypatch, paragraphs):
    class Counting(io.BytesIO):
        count = 0

        def read(self, *size):
            found = super().read(*size)
            Counting.count += len(found)
            return found

    monkeypatch.setattr("raydistill.data.sources._lines._PIECE_BYTES", 50)
    content = b"a" * 10_000 + b"\nb\n"
    items = [Item("a.txt", "", start, min(start + 100, len(content))) for start in range(0, len(content), 100)]
    found = [list(Lines(Counting(content), one, charset="utf-8", paragraphs=paragraphs)) for one in items]
    assert [len(one) for one in found if one] == ([2] if paragraphs else [1, 1])
    assert Counting.count < 2 * len(content)


def test_places_in_a_range_count_the_lines_before_it(monkeypatch):
    monkeypatch.setattr("raydistill.data.sources._lines._PIECE_BYTES", 4)
    content = b"1\n22\n333\n4444\n5\n"
    assert len(content) == 16
    for start, stop in [(0, 0), (0, 3), (3, 10), (9, 16)]:
        lines = Lines(io.BytesIO(content), Item("a.txt", "", start, stop), charset="utf-8")
        assert list(lines)
        expected = 5 if not stop else content[: content.index(b"\n", stop - 1) + 1].count(b"\n")
        assert lines.place() == f"a.txt line {expected}"


def test_large_files_become_ranges_and_packed_ones_do_not(tmp_path, monkeypatch):
    monkeypatch.setattr(_files, "RANGE_BYTES", 10)
    for name, size in [("a.txt", 25), ("b.txt", 10), ("c.txt.gz", 25)]:
        (tmp_path / name).write_bytes(b"x" * size)
    files = _files.list_items(_files.FileSet(path=f"{tmp_path}/*"))
    items = [item for file in files for item in _files.in_ranges(file)]
    assert [(item.name[-4:], item.start, item.stop) for item in items] == [
        *[(".txt", 0, 10), (".txt", 10, 20), (".txt", 20, 25), (".txt", 0, 0)],
        ("t.gz", 0, 0),
    ]
    assert len({item.key for item in items}) == 5
    assert len(files) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either path, or package"),
        ({"path": "a", "package": "b==1"}, "either path, or package"),
        ({"package": "b==1"}, "sha256 and members of package 'b==1'"),
        ({"path": "a", "exclude": ("b",)}, "narrow path instead"),
    ],
)
def test_files_lie_either_at_a_path_or_in_a_package(options, message):
    with pytest.raises(ValueError, match=message):
        _files.FileSet(**options)


@pytest.mark.parametrize("unit", ["line", "paragraph"])
def test_a_long_line_is_held_once_where_it_is_handed_over(unit):
    size = 2_000_000
    stream = io.BytesIO(b"a good film " * (size // 12) + b"\n\n")
    texts = numbered_texts(Lines(stream, Item("a.txt", ""), charset="utf-8", paragraphs=unit == "paragraph"), unit)
    tracemalloc.start()
    try:
        _, text = next(texts)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(text) > 0.99 * size - 12
    assert held < 1.1 * size
    # As bytes and decoded; then with its end and without.
    assert peak < 3.2 * size


def parts_of(content: bytes, unit: str, start: int = 0, stop: int = 0) -> list[tuple[int, str]]:
    item, stream = Item("a.txt", "", start, stop), io.BytesIO(content)
    lines = Lines(stream, item, charset="utf-8", paragraphs=unit == "paragraph", in_parts=True)
    return list(numbered_texts(lines, unit))


@pytest.mark.parametrize("unit", ["line", "paragraph", "file"])
def test_a_text_that_is_too_long_becomes_several_that_are_cut_between_words(unit, monkeypatch):
    monkeypatch.setattr(_lines, "LONGEST_TEXT", 100)
    words = [f"wörd{number}" for number in range(200)]
    content = ("a\n" + " ".join(words) + "\n\nb\n").encode()
    found = parts_of(content, unit)
    assert [word for _, text in found for word in text.split()] == ["a", *words, "b"]
    assert all(len(text) <= 100 for _, text in found)
    assert len(found) < 30
    # Each part has the number of its line, and so has what comes after it.
    assert {number for number, text in found if "wörd1" in text} <= {1, 2}
    assert found[-1][0] == (2 if unit == "file" else 4)


def test_lines_of_a_text_that_is_too_long_become_several_texts(monkeypatch):
    monkeypatch.setattr(_lines, "LONGEST_TEXT", 10)
    assert parts_of(b"abcd\nefgh\nijkl\n\nm\n", "paragraph") == [(1, "abcd efgh"), (3, "ijkl"), (5, "m")]
    assert parts_of(b"abcd\nefgh\nijkl\n\nm\n", "file") == [(1, "abcd\nefgh"), (3, "ijkl\n\nm")]


def test_a_long_line_without_a_space_stays_whole(monkeypatch):
    monkeypatch.setattr(_lines, "LONGEST_TEXT", 10)
    assert parts_of(b"x" * 35 + b"\nb\n", "line") == [(1, "x" * 35), (2, "b")]


def test_a_range_gives_all_parts_of_the_long_line_that_begins_in_it(monkeypatch):
    monkeypatch.setattr(_lines, "LONGEST_TEXT", 10)
    content = b"a\n" + b"bcd " * 20 + b"\ne\n"
    first, second = (parts_of(content, "line", *place) for place in ((0, 20), (20, len(content))))
    assert " ".join(text.strip() for _, text in first) == "a" + " bcd" * 20
    assert [text for _, text in second] == ["e"]


def test_memory_does_not_depend_on_the_length_of_one_text():
    def peak(num_bytes: int) -> int:
        lines = Lines(io.BufferedReader(Endless(num_bytes)), Item("a.txt", "", 0, 0), charset="utf-8", in_parts=True)
        tracemalloc.start()
        size = sum(len(text) for _, text in numbered_texts(lines, "line"))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert size > 0.99 * num_bytes
        return found

    assert peak(160 * 10**6) < 1.1 * peak(40 * 10**6)


class Endless(io.RawIOBase):
    """A line of so many bytes that is nowhere as a whole."""

    def __init__(self, num_bytes: int) -> None:
        self._left = num_bytes

    def readable(self):
        return True

    def readinto(self, buffer):
        number = min(len(buffer), self._left)
        buffer[:number] = (b"word " * (number // 5 + 1))[:number]
        self._left -= number
        return number
