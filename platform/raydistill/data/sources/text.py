"""Plain text files, gzipped or not, on any storage."""

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, cast

from raydistill.data.sources._base import Example, Item, Unit, split_texts
from raydistill.data.storage import Folder, glob_files


@dataclass(frozen=True)
class Config:
    """Which files, and what a text is."""

    path: str
    """A file, or a glob over files (``*`` stops at ``/``, ``**`` does not), local or a URI; ``.gz`` is unpacked."""
    unit: Unit = "paragraph"
    """What a text is: a line, a paragraph (lines between blank lines, joined with spaces) or a file."""
    charset: str = "utf-8-sig"
    """Character encoding of the files."""


def is_listed_early(config: Config) -> bool:
    """Files are listed in the preflight already."""
    return True


def items(config: Config) -> list[Item]:
    """The files that match, in the order of their paths; raises ValueError when there are none."""
    return [Item(path, fingerprint=fingerprint) for path, fingerprint in glob_files(config.path)]


def read(config: Config, item: Item) -> Iterator[Example]:
    """The texts of one file."""
    with Folder(item.name).open_input("") as stream:
        plain = gzip.GzipFile(fileobj=stream) if item.name.endswith(".gz") else stream
        texts = split_texts(cast(IO[bytes], plain), config.unit, charset=config.charset, name=item.name)
        yield from ({"text": text} for text in texts)
