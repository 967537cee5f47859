"""Plain text files, packed or not, on any storage."""

from collections.abc import Iterator
from dataclasses import dataclass

from raydistill.data.sources import _files, _lines
from raydistill.data.sources._base import Example, Item


@dataclass(frozen=True)
class Config:
    """Which files, and what a text is."""

    path: str
    """A file, or a glob over files (``*`` stops at ``/``, ``**`` does not), local or a URI; ``.gz``, ``.bz2`` and
    ``.xz`` are unpacked."""
    unit: _lines.Unit = "paragraph"
    """What a text is: a line, a paragraph (lines between blank lines, joined with spaces) or a file."""
    charset: str = "utf-8-sig"
    """The character encoding of the files."""

    def __post_init__(self) -> None:
        _lines.check_charset(self.charset)


def is_listed_early(config: Config) -> bool:
    """Files are listed in the preflight already."""
    return True


def items(config: Config) -> list[Item]:
    """The files that match, large ones in ranges, in the order of their paths; raises ValueError for none."""
    files = _files.list_items(_files.FileSet(path=config.path))
    if config.unit == "file" or not _lines.is_cuttable(config.charset):
        return files
    return [item for file in files for item in _files.in_ranges(file)]


def read(config: Config, item: Item) -> Iterator[Example]:
    """The texts of one file, or of one range of it."""
    with _files.open_item(_files.FileSet(path=config.path), item) as stream:
        paragraphs = config.unit == "paragraph"
        lines = _lines.Lines(stream, item, charset=config.charset, paragraphs=paragraphs, in_parts=True)
        yield from _lines.text_examples(lines, config.unit)
