"""A text column of Parquet files on any storage."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow.parquet as pq

from raydistill.data.sources._base import Example, Item
from raydistill.data.storage import Folder, glob_files

_ROWS_PER_ITEM = 20_000


@dataclass(frozen=True)
class Config:
    """Which files and which column."""

    path: str
    """A file, or a glob over files, local or a URI."""
    column: str = "text"
    """Column of strings, one text a row."""


def is_listed_early(config: Config) -> bool:
    """Files are listed in the preflight already."""
    return True


def items(config: Config) -> list[Item]:
    """Ranges of row groups of about 20,000 rows; raises ValueError without a matching file or the column."""
    found: list[Item] = []
    for path, fingerprint in glob_files(config.path):
        with Folder(path).open_input("") as stream:
            metadata = pq.read_metadata(stream)
        columns = metadata.schema.to_arrow_schema().names
        if config.column not in columns:
            raise ValueError(f"column is {config.column!r}, which {path} does not have; choices: {', '.join(columns)}")
        found.extend(_row_group_ranges(path, fingerprint, metadata))
    return found


def _row_group_ranges(path: str, fingerprint: str, metadata: pq.FileMetaData) -> Iterator[Item]:
    start = rows = 0
    for group in range(metadata.num_row_groups):
        rows += metadata.row_group(group).num_rows
        if rows >= _ROWS_PER_ITEM or group == metadata.num_row_groups - 1:
            yield Item(path, fingerprint, start, group + 1)
            start, rows = group + 1, 0


def read(config: Config, item: Item) -> Iterator[Example]:
    """The texts of one range of row groups; rows without a text are left out."""
    with Folder(item.name).open_input("") as stream:
        file = pq.ParquetFile(stream)
        for group in range(item.start, item.stop):
            column = file.read_row_group(group, columns=[config.column]).column(config.column)
            yield from ({"text": text} for text in column.to_pylist() if text)
