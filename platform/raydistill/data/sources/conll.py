"""Sentences of words with a tag each, in columns, from files or members of a package."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from raydistill.data.sources import _files, _lines
from raydistill.data.sources._base import Example, Item, Placed, Where
from raydistill.user_error import UserError

_DOCUMENT = "-DOCSTART-"
_MOST_WORDS = 100_000
"""A file without blank lines would be one sentence, of which a model reads the start alone."""


@dataclass(frozen=True)
class Config(_files.FileSet):
    """Which files, and which columns hold words and tags.

    A blank line ends a sentence; lines that start with ``-DOCSTART-`` hold no word.
    """

    words: int = 0
    """The column of the words, from 0; negative numbers count from the end."""
    tags: int = -1
    """The column of the tags."""
    delimiter: str | None = None
    """What separates the columns; None for any white space."""
    charset: str = "utf-8-sig"
    """The character encoding of the files."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _lines.check_charset(self.charset)
        if self.delimiter == "":
            raise UserError("delimiter is empty; give a character, or null for white space")
        if self.words == self.tags:
            raise UserError(f"words and tags are both column {self.words}; they are two columns")


def is_listed_early(config: Config) -> bool:
    """Files are listed in the preflight already."""
    return True


def items(config: Config) -> list[Item]:
    """The files, large ones in ranges, in the order of their names; raises ValueError when there are none."""
    files = _files.list_items(config)
    if not _lines.is_cuttable(config.charset):
        return files
    return [item for file in files for item in _files.in_ranges(file)]


def read(config: Config, item: Item) -> Iterator[Example]:
    """The sentences of one file, or of one range of it, as ``words`` and ``labels``.

    Raises ValueError, naming file and line, for a line with more or fewer columns than the file's first.
    """
    width = _width(config, item) if item.start else None
    sentence, where = list[Sequence[str]](), Where(item.name, "line")
    with _files.open_item(config, item) as stream:
        lines = _lines.Lines(stream, item, charset=config.charset, paragraphs=True)
        for line in lines:
            fields = _fields(config, line)
            if fields:
                width = width or len(fields)
                _check(config, fields, width, lines)
                where = where if sentence else lines.where()
                sentence.append(fields)
                _check_length(sentence, lines)
            elif sentence:
                yield Placed(_example(config, sentence), where)
                sentence = []
    if sentence:
        yield Placed(_example(config, sentence), where)


def _fields(config: Config, line: str) -> list[str]:
    """The columns of a line; none for one that holds no word."""
    if not line.strip() or line.startswith(_DOCUMENT):
        return []
    return line.rstrip("\r\n").split(config.delimiter)


def _width(config: Config, item: Item) -> int | None:
    """Number of columns in the first line of the item's file that holds a word."""
    whole = replace(item, start=0, stop=0)
    with _files.open_item(config, whole) as stream:
        lines = _lines.Lines(stream, whole, charset=config.charset)
        return next((len(fields) for line in lines if (fields := _fields(config, line))), None)


def _check(config: Config, fields: Sequence[str], width: int, lines: _lines.Lines) -> None:
    if len(fields) != width:
        raise UserError(f"{lines.place()} has {len(fields)} columns, but the file's first has {width}; fix it")
    places = {column if column >= 0 else width + column for column in (config.words, config.tags)}
    if len(places) < 2 or not 0 <= min(places) <= max(places) < width:
        columns = f"words {config.words} and tags {config.tags}"
        raise UserError(f"{lines.place()} has {width} columns, too few for {columns}; correct these or delimiter")
    if not (fields[config.words].strip() and fields[config.tags].strip()):
        raise UserError(f"{lines.place()} has a blank word or tag; fix it")


def _check_length(sentence: Sequence[Sequence[str]], lines: _lines.Lines) -> None:
    if len(sentence) > _MOST_WORDS:
        raise UserError(
            f"{lines.place()} is the {len(sentence)}th line without a blank one between; put one after each sentence"
        )


def _example(config: Config, sentence: Sequence[Sequence[str]]) -> Example:
    return {
        "words": [fields[config.words] for fields in sentence],
        "labels": [fields[config.tags] for fields in sentence],
    }
